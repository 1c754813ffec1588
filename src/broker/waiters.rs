//! The requests that wait for the outcome of a flight, by client.

use std::sync::Arc;

use tokio::sync::watch;

use super::entry::Entry;
use super::request::Refusal;
use crate::token::Grant;
use crate::upstream::Failure;

/// The outcome of a flight, for each of its followers.
pub type FlightOutcome = Result<Issued, Refusal>;

/// A token that a call returned.
#[derive(Clone)]
pub struct Issued {
    pub entry: Arc<Entry>,
    pub token: Grant,
    /// Is it in the table? Not if its user signed out meanwhile, or if the stored one serves for longer.
    pub stored: bool,
    /// Did another broker of the fleet call for it? It may be older than a request demands.
    pub is_adopted: bool,
}

/// The followers of a flight. Those of one client have one place in the queue of calls.
#[derive(Default)]
pub struct Waiters {
    /// One for each client that has joined, so no more than there are clients.
    groups: Vec<Group>,
    pub is_detached: bool,
}

struct Group {
    client: Arc<str>,
    place: ClientPlace,
    /// Its receivers are the followers.
    outcome: watch::Sender<Option<FlightOutcome>>,
}

/// A client's place in the queue, for the call of a flight.
#[derive(PartialEq, Eq)]
enum ClientPlace {
    /// It has not asked for one.
    None,
    Held,
    /// The call may still leave by the turn of another client.
    Rejected(Failure),
}

impl Waiters {
    /// Adds a follower of this client; returns whether it is the first that waits, or the client now asks for a place.
    pub fn join(&mut self, client: &str) -> (watch::Receiver<Option<FlightOutcome>>, bool) {
        let is_first = !self.has_followers();
        let index = self.groups.iter().position(|group| *group.client == *client).unwrap_or_else(|| {
            let (outcome, place) = (watch::Sender::new(None), ClientPlace::None);
            self.groups.push(Group { client: client.into(), place, outcome });
            self.groups.len() - 1
        });
        let group = &mut self.groups[index];
        // Its line may be shorter by now.
        if group.place != ClientPlace::Held {
            group.place = ClientPlace::None;
        }
        (group.outcome.subscribe(), is_first || group.place == ClientPlace::None)
    }

    /// Does a request wait?
    pub fn has_followers(&self) -> bool {
        self.groups.iter().any(|group| group.outcome.receiver_count() > 0)
    }

    /// The clients whose requests wait.
    pub fn clients(&self) -> Vec<Arc<str>> {
        let waiting = self.groups.iter().filter(|group| group.outcome.receiver_count() > 0);
        waiting.map(|group| Arc::clone(&group.client)).collect()
    }

    /// Is the flight detached and without followers?
    pub fn is_abandoned(&self) -> bool {
        self.is_detached && !self.has_followers()
    }

    /// A client that asks for a place.
    pub fn next_client(&self) -> Option<Arc<str>> {
        let group = self.groups.iter().find(|group| group.place == ClientPlace::None)?;
        Some(Arc::clone(&group.client))
    }

    /// Does a client have a place?
    pub fn has_place(&self) -> bool {
        self.groups.iter().any(|group| group.place == ClientPlace::Held)
    }

    /// Records that this client has a place, or why not.
    pub fn set_place(&mut self, client: &str, place: Result<(), Failure>) {
        if let Some(group) = self.groups.iter_mut().find(|group| *group.client == *client) {
            group.place = place.map_or_else(ClientPlace::Rejected, |()| ClientPlace::Held);
        }
    }

    /// Records that the call lost all its places. Clients that had none ask for one again.
    pub fn lose_places(&mut self, failure: &Failure) {
        for Group { place, .. } in &mut self.groups {
            let had_place = *place == ClientPlace::Held;
            *place = if had_place { ClientPlace::Rejected(failure.clone()) } else { ClientPlace::None };
        }
    }

    /// Makes every client ask for a place, for another call.
    pub fn reset_places(&mut self) {
        self.groups.iter_mut().for_each(|group| group.place = ClientPlace::None);
    }

    /// Gives the followers of each refused client that client's refusal.
    pub fn answer_refused(&mut self) {
        self.groups.retain(|group| {
            let ClientPlace::Rejected(failure) = &group.place else { return true };
            group.outcome.send_replace(Some(Err(failure.clone().into())));
            false
        });
    }

    /// Gives all followers the outcome.
    pub fn answer(&mut self, outcome: &FlightOutcome) {
        for group in self.groups.drain(..) {
            group.outcome.send_replace(Some(outcome.clone()));
        }
    }
}
