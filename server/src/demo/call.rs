//! One command of the demo: what is typed, what goes in, how it has to end, and what came back.

use super::stage::{Broken, Program, Ran};
use serde_json::Value;

/// A command and how it has to end.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// What is run.
    pub(super) program: Program,
    /// Its arguments.
    pub(super) arguments: Vec<&'a str>,
    /// Its standard input.
    pub(super) input: &'a str,
    /// The exit code it has to end with.
    pub(super) exit: i32,
}

impl<'a> Call<'a> {
    /// `program` with `arguments`, without input, ending with 0.
    pub(super) fn of(program: Program, arguments: &[&'a str]) -> Self {
        Self { program, arguments: arguments.to_vec(), input: "", exit: 0 }
    }

    /// The same with something on its standard input.
    pub(super) fn reading(mut self, input: &'a str) -> Self {
        self.input = input;
        self
    }

    /// The same, but it has to end with `exit`.
    pub(super) fn ending(mut self, exit: i32) -> Self {
        self.exit = exit;
        self
    }

    /// The command as a person would type it, its secrets cut short.
    pub(super) fn shown(&self) -> String {
        let line = format!("{} {}", self.program.name(), self.arguments.join(" "));
        if self.input.is_empty() { line } else { format!("echo '{}' | {line}", shortened(self.input)) }
    }

    /// What `ran` came to, if it ended as it has to.
    pub(super) fn judge(&self, ran: Ran) -> Result<Ran, Broken> {
        if ran.code == Some(self.exit) {
            return Ok(ran);
        }
        Err(Broken::Ended {
            command: self.shown(),
            code: ran.code.map_or_else(|| "a signal".to_owned(), |code| code.to_string()),
            expected: self.exit,
            said: said(&ran),
        })
    }
}

/// What a failing command said: its problem in words, or its last line.
pub(super) fn said(ran: &Ran) -> String {
    let problem = problem(ran);
    let part = |name: &str| problem.get(name).and_then(Value::as_str).map(str::to_owned);
    let parts: Vec<String> =
        [part("title"), part("detail"), part("remedy")].into_iter().flatten().map(as_sentence).collect();
    if parts.is_empty() { ran.stderr.lines().last().unwrap_or_default().to_owned() } else { parts.join(" ") }
}

fn as_sentence(text: String) -> String {
    if text.ends_with(['.', '?', '!']) { text } else { text + "." }
}

/// The problem on standard error: both programs write it alike.
pub(super) fn problem(ran: &Ran) -> Value {
    last_json(&ran.stderr)
}

/// The JSON in `text`: all of it, or its last line.
pub(super) fn last_json(text: &str) -> Value {
    let line = || text.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    serde_json::from_str(text).ok().or_else(line).unwrap_or_default()
}

/// The text at `pointer`, which has to be there.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str, Broken> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.ok_or_else(|| Broken::unexpected(format!("there is no {pointer} in what came back")))
}

/// Whether the text at `pointer` is `wanted`.
pub(super) fn is(value: &Value, pointer: &str, wanted: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_str) == Some(wanted)
}

/// The enrolment string with its secret and its digests cut short.
pub(super) fn shortened(enrollment: &str) -> String {
    let cut = |text: &str, keep: usize| text.chars().take(keep).chain(['…']).collect::<String>();
    let Some((head, tail)) = enrollment.split_once("/muster_") else {
        return cut(enrollment, 20);
    };
    let (token, digests) = tail.split_once('?').unwrap_or((tail, ""));
    let pairs: Vec<String> = digests
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| format!("{name}={}", cut(value, 6)))
        .collect();
    format!("{head}/muster_{}?{}", cut(token, 4), pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string() -> String {
        let token = "0123456789abcdef0123456789abcdef012345";
        format!("muster://localhost:8443/muster_{token}?ca={}&auth={}", "c".repeat(43), "a".repeat(43))
    }

    #[test]
    fn an_enrolment_string_is_shown_without_its_secret() {
        assert_eq!(shortened(&string()), "muster://localhost:8443/muster_0123…?ca=cccccc…&auth=aaaaaa…");
        assert!(!shortened("something else that is long and secret").contains("secret"));
        let string = string();
        let call = Call::of(Program::Agent, &["enroll", "-"]).reading(&string);
        assert!(!call.shown().contains("0123456"), "{}", call.shown());
    }

    #[test]
    fn json_is_found_whole_or_on_the_last_line() {
        assert_eq!(last_json("{\n \"a\": 1\n}\n")["a"], 1);
        assert_eq!(last_json("noise\n{\"a\": 2}\n")["a"], 2);
        assert_eq!(last_json("noise"), Value::Null);
    }

    #[test]
    fn the_problem_is_the_last_line_on_standard_error() {
        let stderr = "a warning\n{\"code\":\"forbidden\"}\n".to_owned();
        let ran = Ran { code: Some(3), stdout: String::new(), stderr };
        assert_eq!(problem(&ran)["code"], "forbidden");
    }

    #[test]
    fn a_command_that_ends_otherwise_says_what_it_said() {
        let ran = Ran { code: Some(1), stdout: String::new(), stderr: "noise\nno such thing\n".into() };
        let broken = Call::of(Program::Muster, &["x"]).ending(3).judge(ran).unwrap_err();
        assert_eq!(broken.in_words(), "`muster x` ended with 1, not with 3: no such thing");
    }
}
