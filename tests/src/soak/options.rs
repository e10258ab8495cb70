//! How long, how many, which seed, whether packets are lost.

use std::path::PathBuf;
use std::time::Duration;

/// How the task is spelled.
pub const USAGE: &str =
    "usage: cargo xtask soak [--minutes N | --seconds N] [--agents N] [--seed S] [--no-loss] [--json FILE]";

/// What the network does to packets of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It loses one in ten, and all of them now and then.
    Lossy,
    /// It delivers.
    Whole,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long faults happen.
    pub length: Duration,
    /// How many devices.
    pub agents: usize,
    /// What chance follows.
    pub seed: u64,
    /// What happens to packets.
    pub network: Network,
    /// Where the report goes, too.
    pub json: Option<PathBuf>,
}

impl Options {
    /// Reads a command line without the program's name; `seed` is for a run that names none.
    ///
    /// # Errors
    /// [`USAGE`].
    pub fn read(words: impl IntoIterator<Item = String>, seed: u64) -> Result<Self, &'static str> {
        let length = Duration::from_secs(15 * 60);
        let mut options = Self { length, agents: 500, seed, network: Network::Lossy, json: None };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).ok_or(USAGE);
            match word.as_str() {
                "--minutes" => options.length = Duration::from_secs(number()?.saturating_mul(60)),
                "--seconds" => options.length = Duration::from_secs(number()?),
                "--agents" => options.agents = usize::try_from(number()?).map_err(|_| USAGE)?,
                "--seed" => options.seed = number()?,
                "--no-loss" => options.network = Network::Whole,
                "--json" => options.json = Some(words.next().ok_or(USAGE)?.into()),
                _ => return Err(USAGE),
            }
        }
        if options.agents < 10 || options.length.is_zero() { Err(USAGE) } else { Ok(options) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, &'static str> {
        Options::read(line.split_whitespace().map(str::to_owned), 1)
    }

    #[test]
    fn without_a_word_it_is_fifteen_minutes_of_five_hundred_devices_on_a_bad_line() {
        let options = read("").unwrap();
        assert_eq!((options.length.as_secs(), options.agents, options.seed), (900, 500, 1));
        assert_eq!((options.network, options.json), (Network::Lossy, None));
    }

    #[test]
    fn every_word_has_its_effect_and_nonsense_is_refused() {
        let options = read("--seconds 5 --agents 20 --seed 9 --no-loss --json f").unwrap();
        assert_eq!((options.length.as_secs(), options.agents, options.seed), (5, 20, 9));
        assert_eq!((options.network, options.json), (Network::Whole, Some("f".into())));
        for nonsense in ["--minutes", "--minutes x", "--minutes 0", "--agents 3", "fast", "--json"] {
            assert!(read(nonsense).is_err(), "{nonsense}");
        }
    }
}
