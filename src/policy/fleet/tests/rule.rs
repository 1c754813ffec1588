//! The rules that a test can switch off.

/// A rule of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A join empties the bucket.
    JoinEmpties,
    /// An absent bucket is empty.
    AbsentIsEmpty,
    /// The live members leave the missing ones their shares.
    MissingCounted,
    /// A member's share is no larger than what the shares of all others leave.
    ShareLeft,
    /// A beat that is executed late makes nobody live.
    LateBeatIsVoid,
    /// A store that forgot the fleet counts the members that the brokers remember.
    RememberedCounted,
    /// It counts those that are not back with the largest share that the brokers remember.
    LargestCounted,
    /// Permits that are unused after 100 ms are thrown away.
    PurseEnds,
    /// A broker that is cut off makes no call for 3 s.
    Silence,
    /// A broker that is cut off uses its share only.
    ShareAlone,
    /// A broker that is cut off begins with an empty bucket.
    AloneFromEmpty,
    /// A flight takes the lease before it calls.
    LeaseTaken,
    /// A lease is renewed while its flight waits and calls.
    LeaseRenewed,
    /// No call leaves on a lapsed lease.
    LeaseLapses,
    /// A record counts only if it was opened after the sign-out of each of its users.
    NotBeforeChecked,
    /// A token that was fetched before a sign-out is not served by those who have read of it.
    FlightVoided,
    /// A record counts only if it is of the wanted key.
    KeyCompared,
    /// A record counts only above the floor.
    FloorChecked,
    /// A record lasts no longer than the Unix clocks of its two brokers say.
    UnixCompared,
    /// The longer-lived record is kept.
    LongerKept,
    /// Of several records, only the one that was found to be of no use is replaced by a shorter-lived one.
    UselessCompared,
    /// A rejected token is not stored again.
    RejectedRefused,
}

/// All rules, or all but one.
#[derive(Clone, Copy, Debug)]
pub struct Rules(pub Option<Rule>);

impl Rules {
    /// Whether this rule holds.
    pub fn hold(self, rule: Rule) -> bool {
        self.0 != Some(rule)
    }
}
