//! Mode learned: which calls ahead of a request pay off.
//!
//! # What is predicted
//!
//! For a key whose token is due or has lapsed, two probabilities and a mean:
//!
//! - `soon`: that a request comes before the next decision, which is `recheck` away
//!   (a quarter of the idle time; at least a sixteenth of a window, at most an hour);
//! - `within`: that one comes within a token's window `W`;
//! - `passed`: the mean share of `W` that passes before that request.
//!
//! # From which features, by which estimator
//!
//! A key's features are its idle time, its visits and the gaps between them, and the hours with
//! requests on the last seven days, each on a coarse scale; and today's attendance compared with
//! the usual, which shows weekends and holidays. Idle time and usual hours choose one of twelve
//! *strata*. Eight *feature sets*, each of a few features, have a hash table of cells. A cell is
//! a running mean `m` of outcomes (0 or 1) over `n` samples, with `n` capped so that old ones are
//! forgotten. With the stratum's mean `m0` and shrinkage `k`, a set's estimate and the forecast are
//!
//! ```text
//! m'   = (n m + k m0) / (n + k)
//! e_i  = logit(m'_i) - logit(m0)                  evidence of set i
//! p    = 1 / (1 + exp(-(logit(m0) + sum w_i e_i)))
//! ```
//!
//! An outcome `y` updates the stratum's weights by gradient descent on the log loss, `w_i += rate
//! (y - p) e_i`, within 0 and 1, and then the means. This is logistic mixing, as in PAQ (Mahoney,
//! 2005). Samples of `within` overlap in time, so each weighs `sqrt(recheck / W)`. For users who
//! are away both probabilities are multiplied by the recent returns per forecast return.
//!
//! # For which objective
//!
//! A prefetch avoids a delay with probability `b = within`. It costs `c = 1 - b + b passed` extra
//! calls: without a use the whole call, with one the part of the window that passes before it, as
//! the window of a call on a miss begins with the request. For Poisson arrivals at rate `l`,
//! `b / c = l W`. Fetching in the order of `b / c` avoids the most delays for a number of extra
//! calls (a fractional knapsack). The same ratio over the time until the next decision,
//! `soon / (s (1 - soon / 2))` with `s = recheck / W`, says whether waiting for that decision is
//! better. The *value* is the lesser of the two, and the call is made if it exceeds the price.
//!
//! # How the price is controlled
//!
//! The *price* is the shadow price of an extra call: the Lagrange multiplier of the constraint that
//! the extra calls keep to an allowance. The allowance is `share` (`extra_calls` in the settings) of
//! the *least* calls, those of a broker that calls only on a miss. The base price is the lowest at
//! which the candidates of the last days (a value and a cost for each key and absence, the best
//! one) cost no more than the allowance. It is multiplied by `exp(2 debt)`, where `debt` is the overdrawn allowance relative
//! to that of five days; by the lateness of the decision while the budget is short; and
//! has a lower bound that decays over the first day. After five unused tokens in a row the value
//! is 0 until the next request, whatever the forecast.
//!
//! # How bias is avoided
//!
//! Decisions with and without a fetch are learned alike. A key with a prefetched token is not
//! decided about, so it is observed at the times at which it would be, until its next request:
//! learning from the others alone would teach that no user returns. Of the observed keys, those
//! usual at this hour teach `soon` only, since they would outweigh the others.
//!
//! # How outcomes are counted
//!
//! [`call_counts`]: a prefetch is counted as an extra call less its `within`. Its first request, or
//! the next decision without one, settles it as used or unused. `within`, the value and the price of
//! the last decision are in `/explain`; the price and the shares are metrics.
//!
//! # Limits
//!
//! A key is forgotten after eight days (four windows, if that is more) without a request, so
//! monthly demand is not learned. 65,536 outcomes and as many observations are pending at most;
//! beyond half of that decisions are sampled. The tables take 3.1 MB for each workspace. A store
//! keeps the tables and the histories over a restart, without the pending outcomes. Each constant
//! is argued in [`tuning`].

mod attendance;
pub mod call_counts;
mod congestion;
pub mod demand;
mod encoding;
mod features;
mod forecaster;
mod hours;
pub mod learner;
mod lessons;
mod price;
pub mod tuning;
