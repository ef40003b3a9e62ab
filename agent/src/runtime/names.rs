//! Names that are taken: one pod sandbox, one container for each.
//!
//! A name is held by a guard until the object is gone, so it is given back whatever happens. A second request for
//! the same name waits for the first one's end, since a kubelet that lost its answer asks again.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;

/// All names of one kind.
///
/// A name is what the object was asked for with, field by field. Joined to one text, two names could be the same.
#[derive(Debug, Clone)]
pub struct Names<N>(Arc<Mutex<HashMap<N, Slot>>>);

impl<N> Default for Names<N> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

#[derive(Debug, Clone)]
struct Slot {
    owner: watch::Receiver<Owner>,
}

/// The owner of a taken name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    /// Its object is being made.
    Maker,
    /// The object with this id.
    Object(String),
    /// None any more: the name is free.
    Nobody,
}

/// A taken name. Releasing or dropping it gives the name back.
#[derive(Debug)]
pub struct Reservation<N: Eq + Hash> {
    names: Names<N>,
    released: AtomicBool,
    name: N,
    owner: watch::Sender<Owner>,
}

/// What became of a request for a name.
#[derive(Debug)]
pub enum Reserved<N: Eq + Hash> {
    /// It is ours now.
    New(Reservation<N>),
    /// The object with this id has it.
    Taken(String),
}

impl<N: Clone + Eq + Hash> Names<N> {
    /// Takes `name`, or tells who has it. Waits while somebody is about to make its object.
    pub async fn reserve(&self, name: &N) -> Reserved<N> {
        loop {
            let mut owner = {
                let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(slot) = slots.get(name) else {
                    let (sender, receiver) = watch::channel(Owner::Maker);
                    slots.insert(name.clone(), Slot { owner: receiver });
                    return Reserved::New(self.reservation(name, sender));
                };
                slot.owner.clone()
            };
            // An error or nobody means that the maker gave up: try again.
            let known = owner.wait_for(|owner| *owner != Owner::Maker).await.map(|owner| owner.clone());
            if let Ok(Owner::Object(id)) = known {
                return Reserved::Taken(id);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Takes a name for an object that is there already (recovery); `None` if another has it.
    pub fn adopt(&self, name: &N, id: &str) -> Option<Reservation<N>> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.contains_key(name) {
            return None;
        }
        let (sender, receiver) = watch::channel(Owner::Object(id.to_owned()));
        slots.insert(name.clone(), Slot { owner: receiver });
        Some(self.reservation(name, sender))
    }

    fn reservation(&self, name: &N, owner: watch::Sender<Owner>) -> Reservation<N> {
        Reservation { names: self.clone(), released: AtomicBool::new(false), name: name.clone(), owner }
    }
}

impl<N: Eq + Hash> Reservation<N> {
    /// The object is there: whoever waits for the name learns its id.
    pub fn settle(&self, id: &str) {
        self.owner.send_replace(Owner::Object(id.to_owned()));
    }

    /// The object is gone, though somebody may still hold its handle.
    pub fn release(&self) {
        if !self.released.swap(true, Ordering::Relaxed) {
            self.names.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
            // Who waits must not wait for the last handle to go.
            self.owner.send_replace(Owner::Nobody);
        }
    }
}

impl<N: Eq + Hash> Drop for Reservation<N> {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_request_waits_for_the_first() {
        let names = Names::default();
        let Reserved::New(first) = names.reserve(&"a").await else { panic!("name was free") };
        let waiting = tokio::spawn({
            let names = names.clone();
            async move { names.reserve(&"a").await }
        });
        tokio::task::yield_now().await;
        first.settle("id1");
        let Reserved::Taken(id) = waiting.await.unwrap() else { panic!("name was taken") };
        assert_eq!(id, "id1");
    }

    #[tokio::test]
    async fn a_name_comes_back_when_its_maker_fails() {
        let names = Names::default();
        let Reserved::New(first) = names.reserve(&"a").await else { panic!("name was free") };
        let waiting = tokio::spawn({
            let names = names.clone();
            async move { names.reserve(&"a").await }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(matches!(waiting.await.unwrap(), Reserved::New(_)));
    }

    /// As with an object that could not be made, nor undone at once.
    #[tokio::test]
    async fn a_name_comes_back_though_its_guard_is_kept() {
        let names = Names::default();
        let Reserved::New(first) = names.reserve(&"a").await else { panic!("name was free") };
        let waiting = tokio::spawn({
            let names = names.clone();
            async move { names.reserve(&"a").await }
        });
        tokio::task::yield_now().await;
        first.release();
        let Reserved::New(second) = waiting.await.unwrap() else { panic!("name was released") };
        drop(first);
        second.settle("id2");
        assert!(matches!(names.reserve(&"a").await, Reserved::Taken(id) if id == "id2"));
    }

    #[tokio::test]
    async fn an_adopted_name_is_taken_once() {
        let names = Names::default();
        let guard = names.adopt(&"a", "1").unwrap();
        assert!(names.adopt(&"a", "2").is_none());
        assert!(matches!(names.reserve(&"a").await, Reserved::Taken(id) if id == "1"));
        drop(guard);
        assert!(matches!(names.reserve(&"a").await, Reserved::New(_)));
    }
}
