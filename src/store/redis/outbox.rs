//! The outbox: what others must learn, sent in order, however long Redis is away.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::RedisResult;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::context::Context;
use super::endpoint::describe;
use super::event::Event;
use super::link::{Link, View};
use super::names::EVENTS;
use crate::clock::Moment;
use crate::metrics::StoreOperation;
use crate::policy::fleet::member::DEADLINE;
use crate::token::{Lifetime, TokenKey};

/// The most messages that wait.
pub const CAPACITY: usize = 10_000;

/// How long a rejected token is refused.
const REFUSED: Duration = Duration::from_secs(60);

/// The pause after a message that could not be sent.
const PAUSE: Duration = Duration::from_millis(250);

/// About how many events the stream keeps.
const EVENTS_KEPT: u32 = 100_000;

/// An event to send, and whom to tell when it is sent.
struct Message {
    event: Event,
    pushed: Moment,
    sent: oneshot::Sender<()>,
}

/// The side that takes messages.
#[derive(Clone)]
pub struct Outbox {
    queue: mpsc::Sender<Message>,
    pending: Arc<Pending>,
    /// The last message was dropped.
    is_full: Arc<AtomicBool>,
    /// Told when a message was sent.
    progress: Arc<Notify>,
    context: Arc<Context>,
}

/// The tokens that Redis has not made void yet, with the number of messages that will.
#[derive(Default)]
struct Pending(Mutex<HashMap<Void, usize>>);

/// The tokens that a message makes void.
#[derive(PartialEq, Eq, Hash)]
enum Void {
    /// Those of a user, or of all users of a workspace.
    SignedOut(Box<str>, Option<Box<str>>),
    /// That of a token key.
    Rejected(TokenKey),
}

impl Outbox {
    /// An outbox, which a task of its own empties.
    pub fn new(context: Arc<Context>, view: watch::Receiver<View>) -> Self {
        let (queue, messages) = mpsc::channel(CAPACITY);
        let outbox =
            Self { queue, pending: Arc::default(), is_full: Arc::default(), progress: Arc::default(), context };
        let (context, pending) = (outbox.context.clone(), outbox.pending.clone());
        tokio::spawn(empty(context, pending, outbox.progress.clone(), messages, view));
        outbox
    }

    /// Takes an event. The receiver ends when it is sent; `None` if the outbox is full.
    pub fn push(&self, event: Event) -> Option<oneshot::Receiver<()>> {
        let (sent, receiver) = oneshot::channel();
        self.pending.add(&event);
        match self.queue.try_send(Message { event, pushed: self.context.clock.now(), sent }) {
            Ok(()) => {
                self.is_full.store(false, Ordering::Relaxed);
                self.context.metrics.store_outbox_length.inc();
                Some(receiver)
            }
            Err(error) => {
                self.pending.remove(&error.into_inner().event);
                self.context.metrics.operation(StoreOperation::Tell, false, Duration::ZERO);
                if !self.is_full.swap(true, Ordering::Relaxed) {
                    warn!("the outbox is full: until Redis is back, other brokers do not learn of further sign-outs");
                }
                None
            }
        }
    }

    /// The number of messages that wait, with the one that is being sent.
    pub fn len(&self) -> usize {
        usize::try_from(self.context.metrics.store_outbox_length.get()).unwrap_or_default()
    }

    /// Returns when no message waits.
    pub async fn emptied(&self) {
        loop {
            let progress = self.progress.notified();
            if self.len() == 0 {
                return;
            }
            progress.await;
        }
    }

    /// Whether a sign-out or a rejection waits that concerns this key: Redis may still have the void token.
    pub fn concerns(&self, key: &TokenKey) -> bool {
        self.pending.concerns(key)
    }
}

impl Pending {
    fn void(event: &Event) -> Option<Void> {
        match event {
            Event::SignedOut { workspace, user } => Some(Void::SignedOut(workspace.as_str().into(), user.clone())),
            Event::Rejected { key, .. } => Some(Void::Rejected(key.clone())),
            Event::Throttled { .. } | Event::Emptied => None,
        }
    }

    fn add(&self, event: &Event) {
        if let Some(void) = Self::void(event) {
            *self.0.lock().entry(void).or_default() += 1;
        }
    }

    fn remove(&self, event: &Event) {
        let Some(void) = Self::void(event) else { return };
        let mut pending = self.0.lock();
        if let Some(count) = pending.get_mut(&void) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&void);
            }
        }
    }

    fn concerns(&self, key: &TokenKey) -> bool {
        let pending = self.0.lock();
        if pending.is_empty() {
            return false;
        }
        let has =
            |user: Option<&str>| pending.contains_key(&Void::SignedOut(key.workspace().into(), user.map(Into::into)));
        has(None) || key.users().any(|user| has(Some(user))) || pending.contains_key(&Void::Rejected(key.clone()))
    }
}

/// Sends the messages in order.
async fn empty(
    context: Arc<Context>,
    pending: Arc<Pending>,
    progress: Arc<Notify>,
    mut messages: mpsc::Receiver<Message>,
    mut view: watch::Receiver<View>,
) {
    while let Some(message) = messages.recv().await {
        while let Err(why) = deliver(&context, &message, &mut view).await {
            debug!("an event waits in the outbox: {why}");
            context.clock.sleep_until(context.clock.now() + PAUSE).await;
            if view.has_changed().is_err() {
                return;
            }
        }
        context.metrics.store_outbox_length.dec();
        progress.notify_waiters();
        pending.remove(&message.event);
        // Its caller may have gone.
        let _ = message.sent.send(());
    }
}

async fn deliver(context: &Context, message: &Message, view: &mut watch::Receiver<View>) -> Result<(), String> {
    let link = view.wait_for(|view| view.link.is_some()).await.map_err(|_| "the store is closed")?.link.clone();
    let Some(mut link) = link else { return Err("Redis is away".to_owned()) };
    let start = context.clock.now();
    let event = match &message.event {
        Event::Throttled { workspace, pause } => {
            let pause = pause.saturating_sub(start.since(message.pushed));
            if pause.is_zero() {
                return Ok(());
            }
            Event::Throttled { workspace: workspace.clone(), pause }
        }
        event => event.clone(),
    };
    let sent = timeout(DEADLINE, send(context, &mut link, &event)).await;
    let is_done = matches!(sent, Ok(Ok(())));
    context.metrics.operation(StoreOperation::Tell, is_done, context.clock.now().since(start));
    sent.map_err(|_| "no answer".to_owned())?.map_err(|error| describe(&error))
}

/// Changes the state, *then* tells: a broker that learns of the event must not find what it made void.
pub async fn send(context: &Context, link: &mut Link, event: &Event) -> RedisResult<()> {
    let users = &mut link.users;
    match event {
        Event::SignedOut { workspace, user } => {
            let mut script = context.scripts.sign_out.key(link.names.sign_out(workspace.as_str(), user.as_deref()));
            let _: u8 = script.arg(u64::from(Lifetime::MAX.as_secs()) * 1000).invoke_async(users).await?;
        }
        Event::Rejected { key, print } => {
            let Some(workspace) = context.workspaces.load().get(key.workspace()).copied() else { return Ok(()) };
            let names = link.names.record(key, workspace.identity);
            let mut script = context.scripts.reject.key(names.token);
            script.key(names.rejected).arg(&print.0).arg(REFUSED.as_millis() as u64);
            let _: u8 = script.invoke_async(users).await?;
        }
        Event::Throttled { .. } | Event::Emptied => {}
    }
    let Some(sealed) = event.seal(&context.sealer) else { return Ok(()) };
    let mut add = redis::cmd("XADD");
    add.arg(EVENTS).arg("MAXLEN").arg("~").arg(EVENTS_KEPT).arg("*").arg("e").arg(sealed);
    add.query_async::<String>(&mut link.connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{ScopeClaim, WorkspaceName};

    fn signed_out(user: Option<&str>) -> Event {
        Event::SignedOut { workspace: WorkspaceName::new("eu").expect("a name"), user: user.map(Into::into) }
    }

    #[test]
    fn waiting_sign_out_concerns_the_keys_of_its_user_until_all_of_it_is_sent() {
        let key = |workspace, claim| {
            let workspace = WorkspaceName::new(workspace).expect("a name");
            TokenKey::new(&workspace, &ScopeClaim::parse(claim).expect("a claim"), Lifetime::MAX)
        };
        let keys = [
            key("eu", "user_id:a s"),
            key("eu", "user_id:b user_id:a s"),
            key("eu", "user_id:b s"),
            key("us", "user_id:a s"),
        ];
        let pending = Pending::default();
        let concerned = || keys.each_ref().map(|key| pending.concerns(key));
        assert_eq!(concerned(), [false; 4]);
        pending.add(&signed_out(Some("a")));
        pending.add(&signed_out(Some("a")));
        assert_eq!(concerned(), [true, true, false, false]);
        pending.remove(&signed_out(Some("a")));
        assert_eq!(concerned(), [true, true, false, false], "one of two is sent");
        pending.remove(&signed_out(Some("a")));
        assert_eq!(concerned(), [false; 4]);
        pending.add(&signed_out(None));
        assert_eq!(concerned(), [true, true, true, false]);
    }
}
