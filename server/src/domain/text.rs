//! Words that operators give and others read: they must look like what they are.

/// Whether a reader sees `character` for what it is: no control character, none that is invisible, breaks lines or
/// turns the direction of its neighbours (Unicode TR 36, "Bidirectional Text Spoofing").
pub fn is_shown(character: char) -> bool {
    let is_hidden = matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}');
    !character.is_control() && !is_hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_or_hides_text_is_refused_and_every_script_is_welcome() {
        for hidden in ['\n', '\u{202e}', '\u{2028}', '\u{200b}', '\u{2066}', '\u{feff}', '\u{e0041}'] {
            assert!(!is_shown(hidden), "{hidden:?}");
        }
        assert!("Werk 3, Größe – 東京 مصنع".chars().all(is_shown));
    }
}
