//! Mode learned: which calls ahead of a request pay off.

pub mod attendance;
pub mod books;
pub mod congestion;
pub mod demand;
pub mod forecast;
pub mod hours;
pub mod learner;
mod lessons;
pub mod price;

pub use self::lessons::Lesson;
