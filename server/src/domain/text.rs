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

/// In how long that is, in words: exact below two minutes, then in the unit that a person would choose.
pub fn roughly_in(seconds: u64) -> String {
    match seconds {
        0..120 => format!("in {seconds} s"),
        120..7_200 => format!("in about {} minutes", (seconds + 30) / 60),
        7_200..172_800 => format!("in about {} hours", (seconds + 1_800) / 3_600),
        _ => format!("in about {} days", seconds.saturating_add(43_200) / 86_400),
    }
}

/// `text` as somebody wrote it whom nobody has to trust: at most `most` characters, and of those only what a reader sees for
/// what it is.
pub fn shown_part(text: &str, most: usize) -> String {
    let shown: String = text.chars().filter(|character| is_shown(*character)).take(most + 1).collect();
    match shown.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", shown.get(..end).unwrap_or_default()),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_in_the_unit_that_a_person_would_choose() {
        let told = [1, 119, 120, 3_600, 7_199, 14_400, 14_399, 200_000].map(roughly_in);
        assert_eq!(
            told,
            [
                "in 1 s",
                "in 119 s",
                "in about 2 minutes",
                "in about 60 minutes",
                "in about 120 minutes",
                "in about 4 hours",
                "in about 4 hours",
                "in about 2 days"
            ]
        );
    }

    #[test]
    fn what_a_stranger_wrote_is_cut_and_cannot_hide_anything() {
        assert_eq!(shown_part("no\u{202e} hook\n", 200), "no hook");
        assert_eq!(shown_part("abcdef", 3), "abc…");
        assert_eq!(shown_part("abc", 3), "abc");
    }

    #[test]
    fn what_turns_or_hides_text_is_refused_and_every_script_is_welcome() {
        for hidden in ['\n', '\u{202e}', '\u{2028}', '\u{200b}', '\u{2066}', '\u{feff}', '\u{e0041}'] {
            assert!(!is_shown(hidden), "{hidden:?}");
        }
        assert!("Werk 3, Größe – 東京 مصنع".chars().all(is_shown));
    }
}
