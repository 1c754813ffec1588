//! Scope strings: the parsed claim has exactly the parts of the text, and prints as one that parses to itself.

#![no_main]

use courier_token_broker::token::{ClaimError, ScopeClaim};
use courier_token_broker_fuzz::oracle::Claim;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let split = Claim::split(text);
    let claim = match ScopeClaim::parse(text) {
        Ok(claim) => claim,
        Err(ClaimError::NoUser | ClaimError::NoScope) => return assert!(split.is_none(), "{text:?}"),
        Err(_) => return,
    };
    let split = split.unwrap_or_else(|| panic!("{text:?} was read as {claim}"));
    let users: Vec<_> = claim.users().iter().map(|user| user.as_str()).collect();
    let scopes: Vec<_> = claim.scopes().iter().map(|scope| scope.as_str()).collect();
    assert_eq!(users, split.users);
    assert!(scopes.iter().copied().eq(split.scopes.iter().map(String::as_str)), "{text:?}");
    assert!((1..=ScopeClaim::MAX_USERS).contains(&users.len()));
    assert!((1..=ScopeClaim::MAX_SCOPES).contains(&scopes.len()));

    // The text for Courier: users first, one space between any two parts.
    let printed = claim.to_string();
    assert!(printed.len() <= ScopeClaim::MAX_BYTES);
    let parts: Vec<_> = users.iter().map(|user| format!("user_id:{user}")).collect();
    let parts: Vec<_> = parts.iter().map(String::as_str).chain(scopes).collect();
    assert!(printed.split_whitespace().eq(parts.iter().copied()), "{printed:?}");
    assert_eq!(printed, parts.join(" "));
    assert_eq!(ScopeClaim::parse(&printed).as_ref(), Ok(&claim));
});
