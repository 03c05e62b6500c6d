//! Servers' responses that are kept, and for whom.
//!
//! What came over the host's own network is good for every container with the same servers. What came through a
//! container's namespace is its alone: whoever is root in there could have made it up. Memory is bounded, for each
//! such scope and for all of them; whoever fills a scope drives out only what is in it.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

/// Who may be answered with a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every container with this set of servers, all asked from the host's network namespace.
    Shared(u32),
    /// One container.
    Private(u32),
}

/// Name, type, class and what else makes a difference, of one question.
pub type Key = Rc<[u8]>;

const SHARED_LIMIT: usize = 2 << 20;
const PRIVATE_LIMIT: usize = 256 << 10;
const LIMIT: usize = 16 << 20;
/// What an entry costs beyond its bytes.
const OVERHEAD: usize = 200;
const SECOND_NS: u64 = 1_000_000_000;

/// A response that is kept.
#[derive(Debug)]
pub struct Entry {
    pub message: Box<[u8]>,
    pub ttls: Box<[u16]>,
    stored_ns: u64,
    until_ns: u64,
    /// Asked for since it was last looked at for eviction.
    used: bool,
}

impl Entry {
    /// Whole seconds since it came.
    #[must_use]
    pub fn age(&self, now_ns: u64) -> u32 {
        (now_ns.saturating_sub(self.stored_ns) / SECOND_NS) as u32
    }
}

#[derive(Debug, Default)]
struct Shelf {
    entries: HashMap<Key, Entry>,
    /// Every key once, oldest first.
    order: VecDeque<Key>,
    size: usize,
}

#[derive(Debug, Default)]
pub struct Cache {
    shelves: HashMap<Scope, Shelf>,
    size: usize,
}

impl Cache {
    /// A response that is still good. Times in monotonic nanoseconds.
    pub fn get(&mut self, scope: Scope, key: &[u8], now_ns: u64) -> Option<&Entry> {
        let entry = self.shelves.get_mut(&scope)?.entries.get_mut(key)?;
        entry.used = true;
        (entry.until_ns > now_ns).then_some(entry)
    }

    /// Keep a response for `lifetime` seconds.
    pub fn put(&mut self, scope: Scope, key: &Key, message: &[u8], ttls: &[u16], lifetime: u32, now_ns: u64) {
        let cost = weight(key, message.len(), ttls.len());
        let limit = if matches!(scope, Scope::Shared(_)) { SHARED_LIMIT } else { PRIVATE_LIMIT };
        let entry = Entry {
            message: message.into(),
            ttls: ttls.into(),
            stored_ns: now_ns,
            until_ns: now_ns + u64::from(lifetime) * SECOND_NS,
            used: false,
        };
        let room = self.shelves.entry(scope).or_default();
        let before = room.size;
        if room.insert(key, entry, cost) {
            let others = self.size - before;
            room.shrink(limit.min(LIMIT.saturating_sub(others)), now_ns);
        }
        self.size = self.size - before + room.size;
    }

    /// Its container is gone, or has other servers now.
    pub fn drop(&mut self, scope: Scope) {
        if let Some(shelf) = self.shelves.remove(&scope) {
            self.size -= shelf.size;
        }
    }
}

impl Shelf {
    /// False for what fits no shelf.
    fn insert(&mut self, key: &Key, entry: Entry, cost: usize) -> bool {
        if cost > PRIVATE_LIMIT / 2 {
            return false;
        }
        self.size += cost;
        match self.entries.insert(Rc::clone(key), entry) {
            Some(old) => self.size -= weight(key, old.message.len(), old.ttls.len()),
            None => self.order.push_back(Rc::clone(key)),
        }
        true
    }

    /// Let go of the oldest first; one that was asked for since gets a second turn, unless its time is over.
    fn shrink(&mut self, limit: usize, now_ns: u64) {
        while self.size > limit {
            let Some(key) = self.order.pop_front() else { return };
            match self.entries.get_mut(&key) {
                Some(entry) if entry.used && entry.until_ns > now_ns => {
                    entry.used = false;
                    self.order.push_back(key);
                }
                Some(_) => {
                    if let Some(old) = self.entries.remove(&key) {
                        self.size -= weight(&key, old.message.len(), old.ttls.len());
                    }
                }
                None => {}
            }
        }
    }
}

fn weight(key: &[u8], message: usize, ttls: usize) -> usize {
    key.len() + message + 2 * ttls + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Scope = Scope::Shared(1);

    fn key(number: usize) -> Key {
        number.to_be_bytes().as_slice().into()
    }

    fn has(cache: &mut Cache, scope: Scope, number: usize, now_ns: u64) -> bool {
        cache.get(scope, &key(number), now_ns).is_some()
    }

    #[test]
    fn what_is_kept_is_the_scopes_own_and_for_its_time() {
        let mut cache = Cache::default();
        cache.put(HOST, &key(1), b"message", &[3], 10, 0);
        let entry = cache.get(HOST, &key(1), 9_500_000_000).expect("it is there");
        assert_eq!((&entry.message[..], entry.age(9_500_000_000)), (&b"message"[..], 9));
        assert!(!has(&mut cache, HOST, 1, 10 * SECOND_NS));
        assert!(!has(&mut cache, Scope::Shared(2), 1, 0) && !has(&mut cache, Scope::Private(1), 1, 0));
        cache.drop(HOST);
        assert!(!has(&mut cache, HOST, 1, 0) && cache.size == 0);
    }

    #[test]
    fn a_scope_is_bounded_and_keeps_what_is_asked_for() {
        let mut cache = Cache::default();
        for number in 0..10_000 {
            cache.put(Scope::Private(7), &key(number), &[0; 100], &[], 10, 0);
            assert!(has(&mut cache, Scope::Private(7), 0, 1), "asked for all the time, after {number}");
        }
        assert!(cache.size <= PRIVATE_LIMIT && cache.size > PRIVATE_LIMIT / 2, "{}", cache.size);
        assert!(!has(&mut cache, Scope::Private(7), 1, 1));
        let shelf = &cache.shelves[&Scope::Private(7)];
        assert_eq!(shelf.entries.len(), shelf.order.len());
        cache.put(Scope::Private(7), &key(1), &vec![0; PRIVATE_LIMIT], &[], 10, 0);
        assert!(!has(&mut cache, Scope::Private(7), 1, 1), "too large to keep");
    }

    #[test]
    fn all_together_are_bounded_and_nobody_drives_out_anothers() {
        let mut cache = Cache::default();
        for scope in 0..200 {
            for number in 0..1000 {
                cache.put(Scope::Private(scope), &key(number), &[0; 100], &[], 10, 0);
            }
        }
        assert!(cache.size <= LIMIT, "{}", cache.size);
        assert!(has(&mut cache, Scope::Private(0), 999, 1), "the first comer's are still there");
        let counted: usize = cache.shelves.values().map(|shelf| shelf.size).sum();
        assert_eq!(cache.size, counted);
    }
}
