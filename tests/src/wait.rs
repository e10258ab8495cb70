//! Waiting on a condition, with a deadline.

use std::time::Duration;

/// How long anything may take on a busy machine before it counts as never. An agent that was refused six times in a row waits
/// for up to a minute by itself.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks `condition` until it answers something; panics with `what` after [`PATIENCE`].
pub async fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, condition).await
}

/// Asks `condition`, which takes its time, until it answers something; panics with `what` after [`PATIENCE`].
pub async fn eventually<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_or(condition).await.unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// The same, but nothing after [`PATIENCE`].
pub(crate) async fn eventually_or<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let asked = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            if let Some(answer) = condition().await {
                return answer;
            }
            tick.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.ok()
}

async fn within<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let asked = async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        loop {
            if let Some(answer) = condition() {
                return answer;
            }
            tick.tick().await;
        }
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(answer) => answer,
        Err(_) => panic!("waited {patience:?} in vain: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_is_asked_until_it_answers() {
        let mut asked = 0;
        let answer = until("three", || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(answer.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain: a miracle")]
    async fn a_condition_that_never_holds_ends_at_the_deadline() {
        within::<()>(Duration::from_millis(20), "a miracle", || None).await;
    }
}
