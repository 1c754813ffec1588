//! The nodes of the timer wheel, linked into lists.

/// The items of a [`Schedule`](super::Schedule), each in one doubly linked list: unlinking takes
/// constant time.
#[derive(Debug)]
pub struct Nodes<T> {
    /// All chunks but the last have [`CHUNK`] nodes.
    chunks: Vec<Vec<Node<T>>>,
    /// The head of the list of unused nodes.
    free: u32,
}

/// The nodes of a chunk: no more are copied when the schedule grows, which its users wait for.
const CHUNK: usize = 4096;

#[derive(Debug)]
struct Node<T> {
    item: Option<T>,
    due: u64,
    next: u32,
    previous: u32,
    generation: u32,
    home: Home,
}

/// The list that an item is in: the due items, or a slot of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    Ready,
    Slot { level: u8, slot: u8 },
}

/// A handle by which a scheduled item can be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    node: u32,
    generation: u32,
}

/// A doubly linked list through the nodes.
#[derive(Clone, Copy, Debug)]
pub struct List {
    head: u32,
    tail: u32,
}

const NONE: u32 = u32::MAX;

impl List {
    pub const EMPTY: Self = Self { head: NONE, tail: NONE };

    pub const fn is_empty(self) -> bool {
        self.head == NONE
    }

    /// The oldest node.
    pub const fn first(self) -> Option<u32> {
        if self.is_empty() { None } else { Some(self.head) }
    }
}

impl<T> Nodes<T> {
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE }
    }

    /// A node for an item, in no list yet.
    pub fn add(&mut self, due: u64, item: T) -> u32 {
        if self.free == NONE {
            return self.push(due, item);
        }
        let node = self.free;
        let unused = self.node_mut(node);
        let next = unused.next;
        (unused.item, unused.due) = (Some(item), due);
        self.free = next;
        node
    }

    fn push(&mut self, due: u64, item: T) -> u32 {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::new());
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        let node = u32::try_from(last * CHUNK + chunk.len()).unwrap_or(NONE);
        assert!(node < NONE, "a schedule holds fewer than 2^32 items");
        let (next, previous) = (NONE, NONE);
        chunk.push(Node { item: Some(item), due, next, previous, generation: 0, home: Home::Ready });
        node
    }

    fn node(&self, node: u32) -> &Node<T> {
        &self.chunks[node as usize / CHUNK][node as usize % CHUNK]
    }

    fn node_mut(&mut self, node: u32) -> &mut Node<T> {
        &mut self.chunks[node as usize / CHUNK][node as usize % CHUNK]
    }

    /// Frees an unlinked node, which voids its tickets.
    pub fn release(&mut self, node: u32) -> Option<T> {
        let free = std::mem::replace(&mut self.free, node);
        let released = self.node_mut(node);
        released.generation = released.generation.wrapping_add(1);
        released.next = free;
        released.item.take()
    }

    pub fn ticket(&self, node: u32) -> Ticket {
        Ticket { node, generation: self.node(node).generation }
    }

    /// The node of a ticket, if it is still in use.
    pub fn find(&self, ticket: Ticket) -> Option<u32> {
        let node = self.chunks.get(ticket.node as usize / CHUNK)?.get(ticket.node as usize % CHUNK)?;
        (node.generation == ticket.generation && node.item.is_some()).then_some(ticket.node)
    }

    pub fn due(&self, node: u32) -> u64 {
        self.node(node).due
    }

    pub fn home(&self, node: u32) -> Home {
        self.node(node).home
    }

    /// Links a node at the end of `list`, which is `home`.
    pub fn link(&mut self, node: u32, list: &mut List, home: Home) {
        let last = list.tail;
        list.tail = node;
        if last == NONE {
            list.head = node;
        } else {
            self.node_mut(last).next = node;
        }
        let linked = self.node_mut(node);
        (linked.previous, linked.next, linked.home) = (last, NONE, home);
    }

    /// Unlinks a node from `list`, which it must be in.
    pub fn unlink(&mut self, node: u32, list: &mut List) {
        let Node { next, previous, .. } = *self.node(node);
        if previous == NONE {
            list.head = next;
        } else {
            self.node_mut(previous).next = next;
        }
        if next == NONE {
            list.tail = previous;
        } else {
            self.node_mut(next).previous = previous;
        }
    }
}
