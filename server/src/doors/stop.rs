//! Asking every listener to stop, and letting what is under way end.

use tokio::sync::watch;

/// The hand that asks.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// The ear that hears it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// A hand and an ear. Dropping the hand asks too, so that nobody serves on without an owner.
pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Asks everyone to stop accepting and to end what is under way.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Returns once everyone was asked to stop; at once when that is past.
    pub async fn asked(&self) {
        let mut receiver = self.0.clone();
        // An error means that the hand is gone, which asks as well.
        drop(receiver.wait_for(|asked| *asked).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_hears_the_stop_even_those_who_listen_late() {
        let (stopper, stop) = channel();
        let early = tokio::spawn({
            let stop = stop.clone();
            async move { stop.asked().await }
        });
        stopper.stop();
        early.await.unwrap();
        stop.asked().await;
    }

    #[tokio::test]
    async fn a_lost_hand_asks_too() {
        let (stopper, stop) = channel();
        drop(stopper);
        stop.asked().await;
    }
}
