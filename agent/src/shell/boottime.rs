//! Time that nobody can set and that goes on while the device sleeps: `CLOCK_BOOTTIME`.
//!
//! A timer of the runtime stands still while a laptop is suspended, so that what was due in an hour would still be an hour
//! away after a night. The one here goes off as soon as the device is awake.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::core::lease::Boot;

/// Since the device was switched on.
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// Where the kernel names the boot.
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";

/// The present boot as the tree at `root` names it; where it names none, as this machine's kernel does.
pub fn boot(root: &Path) -> Boot {
    let read = |root: &Path| std::fs::read_to_string(root.join(BOOT_ID)).ok();
    let id = read(root).or_else(|| read(Path::new("/"))).unwrap_or_default();
    Boot { id: id.trim().chars().take(64).collect(), age: now() }
}

/// An alarm by [`now`]. Where the system gives none, the runtime's timer has to do.
#[derive(Debug)]
pub struct Alarm(Option<AsyncFd<OwnedFd>>);

impl Alarm {
    /// An alarm that is not set. To be made within the runtime.
    pub fn unset() -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags).ok();
        #[expect(
            deprecated,
            reason = "the other constructor is unsafe; an `OwnedFd` keeps what this one asks"
        )]
        Self(timer.and_then(|timer| AsyncFd::new(timer).ok()))
    }

    /// Comes to an end at `at`, or at once when that is past.
    pub async fn sleep_until(&self, at: Duration) {
        let Some(timer) = self.0.as_ref().filter(|timer| set(timer.get_ref(), at).is_ok()) else {
            return tokio::time::sleep(at.saturating_sub(now())).await;
        };
        let mut count = [0; 8];
        while let Ok(mut ready) = timer.readable().await {
            match rustix::io::read(timer.get_ref(), &mut count) {
                // It was set anew after it had gone off: what was readable is no more.
                Err(Errno::AGAIN) => ready.clear_ready(),
                Ok(_) | Err(_) => return ready.clear_ready(),
            }
        }
    }
}

/// Sets `timer` to go off once at `at`; what is past goes off at once.
fn set(timer: &OwnedFd, at: Duration) -> rustix::io::Result<()> {
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Zero would disarm it.
    let at = at.max(Duration::from_nanos(1));
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    let value = Timespec { tv_sec: seconds, tv_nsec: at.subsec_nanos().into() };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: never, it_value: value })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_goes_off_at_its_time_and_not_before_and_again_when_it_is_set_again() {
        let alarm = Alarm::unset();
        assert!(alarm.0.is_some());
        for wait in [0, 20, 5] {
            let at = now() + Duration::from_millis(wait);
            alarm.sleep_until(at).await;
            assert!(now() >= at);
        }
    }

    #[tokio::test]
    async fn an_alarm_that_was_given_up_leaves_nothing_for_the_next() {
        let alarm = Alarm::unset();
        let soon = now() + Duration::from_millis(5);
        tokio::select! {
            biased;
            () = alarm.sleep_until(soon) => panic!("it was not yet time"),
            () = std::future::ready(()) => {}
        }
        let later = now() + Duration::from_millis(30);
        alarm.sleep_until(later).await;
        assert!(now() >= later);
    }

    #[tokio::test]
    async fn without_a_timer_of_the_system_the_runtime_has_to_do() {
        let at = now() + Duration::from_millis(5);
        Alarm(None).sleep_until(at).await;
        assert!(now() >= at);
    }
}
