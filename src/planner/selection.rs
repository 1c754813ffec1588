//! Which requests of a trace count, and for whom.

/// Which requests of a trace count, and which field of a line names the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of an access log: requests whose path begins so. The query is not looked at.
    pub path: Option<String>,
    /// Of an access log `address` or `user`; of CSV a column's name or its number from 1. Without it:
    /// the user of an access log's line, or else its address; the column `user`.
    pub user_field: Option<String>,
}
