//! The waker of an HTTP/1 connection, without hyper's wake-ups for bodies that are complete.

use std::cell::Cell;
use std::sync::Arc;
use std::task::{Wake, Waker};

thread_local! {
    /// While a body is read, whether a wake-up was held back.
    static HELD_BACK: Cell<Option<bool>> = const { Cell::new(None) };
}

/// A connection's waker, which does not wake it while this thread is in [`hold_back`].
///
/// hyper wakes a connection when the request takes a piece of its body, so that the next piece is read. After the last
/// piece the connection would be polled once more for nothing, and the runtime would wake another thread to do it.
pub struct QuietWaker(Waker);

impl QuietWaker {
    /// Returns the quiet form of a task's waker, which is kept for the next time.
    pub fn of<'a>(kept: &'a mut Option<(Waker, Waker)>, task: &Waker) -> &'a Waker {
        let is_other = kept.as_ref().is_none_or(|(known, _)| !known.will_wake(task));
        if is_other {
            *kept = None;
        }
        &kept.get_or_insert_with(|| (task.clone(), Arc::new(Self(task.clone())).into())).1
    }
}

impl Wake for QuietWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match HELD_BACK.get() {
            Some(_) => HELD_BACK.set(Some(true)),
            None => self.0.wake_by_ref(),
        }
    }
}

/// Reads a part of a body. Returns also whether it tried to wake the connection, which was held back.
///
/// Only this thread's wake-ups are: others, such as those for the socket, come from elsewhere.
pub fn hold_back<T>(read: impl FnOnce() -> T) -> (T, bool) {
    /// Ends it after a panic too.
    struct Ending;
    impl Drop for Ending {
        fn drop(&mut self) {
            HELD_BACK.set(None);
        }
    }
    let _ending = Ending;
    HELD_BACK.set(Some(false));
    let read = read();
    (read, HELD_BACK.get() == Some(true))
}
