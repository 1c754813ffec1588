//! The selection of requests in a trace.

/// The requests of a trace that count, and the field that names the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Access log: the prefix of the paths that count, without the query.
    pub path: Option<String>,
    /// The user's field. Access log: `address` or `user`, by default the user, or else the address.
    /// CSV: a column's name or its number from 1, by default `user`.
    pub user_field: Option<String>,
}
