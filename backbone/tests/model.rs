// SPDX-License-Identifier: Apache-2.0
//! Random interleavings of operations and restarts, compared step by step with a model of a few lines.

#![allow(clippy::unwrap_used, reason = "tests, helpers included")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use fanfold_backbone::{Backbone, CasOutcome, DeleteOutcome, Delivery, EmbeddedConfig, Message, Settled};
use proptest::prelude::*;

const LONG: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Create(u8),
    Update(u8, bool),
    Delete(u8, Option<bool>),
    List,
    Enqueue(Vec<u8>),
    Pull(u8),
    Ack(u8),
    Nak(u8),
    Dead(u8),
    Replay(u8),
    Depth,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..4u8;
    prop_oneof![
        key.clone().prop_map(Step::Put),
        key.clone().prop_map(Step::Create),
        (key.clone(), any::<bool>()).prop_map(|(key, right)| Step::Update(key, right)),
        (key, any::<Option<bool>>()).prop_map(|(key, right)| Step::Delete(key, right)),
        Just(Step::List),
        prop::collection::vec(0..40u8, 1..5).prop_map(Step::Enqueue),
        (1..4u8).prop_map(Step::Pull),
        any::<u8>().prop_map(Step::Ack),
        any::<u8>().prop_map(Step::Ack),
        any::<u8>().prop_map(Step::Nak),
        any::<u8>().prop_map(Step::Dead),
        any::<u8>().prop_map(Step::Replay),
        Just(Step::Depth),
        Just(Step::Reopen),
    ]
}

/// What the backbone should hold. Messages are numbered by arrival.
#[derive(Default)]
struct Model {
    keys: BTreeMap<String, u64>,
    last_revision: u64,
    ids: BTreeMap<u64, String>,
    attempts: BTreeMap<u64, u32>,
    ready: BTreeSet<u64>,
    leased: Vec<(u64, Delivery)>,
    /// Deliveries whose lease ended, kept to be settled late.
    stale: Vec<(u64, Delivery)>,
    dead: Vec<u64>,
    seen: HashSet<String>,
    arrivals: u64,
}

impl Model {
    fn stored(&mut self, key: &str, revision: u64) {
        assert!(revision > self.last_revision);
        self.last_revision = revision;
        self.keys.insert(key.to_owned(), revision);
    }

    fn is_queued(&self, number: u64) -> bool {
        self.ready.contains(&number) || self.leased.iter().any(|(leased, _)| *leased == number)
    }

    async fn step(&mut self, b: &mut Backbone, config: &EmbeddedConfig, step: &Step) {
        match step {
            Step::Put(_) | Step::Create(_) | Step::Update(..) | Step::Delete(..) | Step::List => {
                self.keys_step(b, step).await;
            }
            Step::Reopen => {
                b.close().await;
                *b = Backbone::embedded(config.clone()).await.unwrap();
                self.ready.extend(self.leased.drain(..).map(|(number, _)| number));
                self.stale.clear();
                self.seen = self.ready.iter().map(|number| self.ids[number].clone()).collect();
            }
            _ => self.work_step(b, step).await,
        }
    }

    async fn keys_step(&mut self, b: &Backbone, step: &Step) {
        let name = |key: &u8| format!("k/{key}");
        match step {
            Step::Put(key) => {
                let revision = b.put(&name(key), "x").await.unwrap();
                self.stored(&name(key), revision);
            }
            Step::Create(key) => {
                match (b.create(&name(key), "x").await.unwrap(), self.keys.get(&name(key))) {
                    (CasOutcome::Stored(revision), None) => self.stored(&name(key), revision),
                    (CasOutcome::Conflict(Some(entry)), Some(held)) => assert_eq!(entry.revision, *held),
                    other => panic!("{other:?}"),
                }
            }
            Step::Update(key, right) => {
                let held = self.keys.get(&name(key)).copied();
                let expected = held.filter(|_| *right).unwrap_or(self.last_revision + 9);
                match (b.update(&name(key), "x", expected).await.unwrap(), held) {
                    (CasOutcome::Stored(revision), Some(held)) if held == expected => {
                        self.stored(&name(key), revision);
                    }
                    (CasOutcome::Conflict(found), held) if held != Some(expected) => {
                        assert_eq!(found.map(|entry| entry.revision), held);
                    }
                    other => panic!("{other:?}"),
                }
            }
            Step::Delete(key, right) => {
                let held = self.keys.get(&name(key)).copied();
                let wrong = self.last_revision + 9;
                let expected = right.map(|right| held.filter(|_| right).unwrap_or(wrong));
                match (b.delete(&name(key), expected).await.unwrap(), held) {
                    (DeleteOutcome::Absent, None) => {}
                    (DeleteOutcome::Deleted(revision), Some(held)) if expected.is_none_or(|e| e == held) => {
                        assert!(revision > self.last_revision);
                        self.last_revision = revision;
                        self.keys.remove(&name(key));
                    }
                    (DeleteOutcome::Conflict(entry), Some(held)) if expected.is_some_and(|e| e != held) => {
                        assert_eq!(entry.revision, held);
                    }
                    other => panic!("{other:?}"),
                }
            }
            _ => {
                let listed = b.list("k/").await.unwrap().into_iter();
                let listed: BTreeMap<_, _> = listed.map(|(key, entry)| (key, entry.revision)).collect();
                assert_eq!(listed, self.keys);
            }
        }
    }

    async fn replay_step(&mut self, b: &Backbone, pick: u8) {
        self.dead.sort_unstable();
        let letters = b.dead_letters("q", 0, 1_000).await.unwrap();
        let found: Vec<_> = letters.iter().map(|letter| &letter.id).collect();
        assert_eq!(found, self.dead.iter().map(|number| &self.ids[number]).collect::<Vec<_>>());
        if !letters.is_empty() {
            let at = usize::from(pick) % letters.len();
            assert_eq!(b.replay("q", vec![letters[at].sequence]).await.unwrap(), 1);
            let number = self.dead.remove(at);
            self.attempts.remove(&number);
            self.ready.insert(number);
        }
    }

    async fn work_step(&mut self, b: &Backbone, step: &Step) {
        match step {
            Step::Enqueue(ids) => {
                let batch = ids.iter().map(|id| Message::new(id.to_string(), vec![*id; 3])).collect();
                let outcome = b.enqueue("q", batch).await.unwrap();
                let before = self.arrivals;
                for id in ids.iter().map(u8::to_string) {
                    if self.seen.insert(id.clone()) {
                        self.arrivals += 1;
                        self.ids.insert(self.arrivals, id);
                        self.ready.insert(self.arrivals);
                    }
                }
                assert_eq!(outcome.accepted as u64, self.arrivals - before);
                assert_eq!(outcome.accepted + outcome.duplicates, ids.len());
            }
            Step::Pull(max) => {
                let pulled = b.pull("q", usize::from(*max), Duration::ZERO, LONG).await.unwrap();
                assert_eq!(pulled.len(), self.ready.len().min(usize::from(*max)));
                for delivery in pulled {
                    let number = self.ready.pop_first().unwrap();
                    let attempt = self.attempts.entry(number).or_default();
                    *attempt += 1;
                    assert_eq!((&delivery.id, delivery.attempt), (&self.ids[&number], *attempt));
                    assert_eq!(&delivery.payload[..], [delivery.id.parse::<u8>().unwrap(); 3]);
                    self.leased.push((number, delivery));
                }
            }
            Step::Ack(pick) if pick % 4 == 0 && !self.stale.is_empty() => {
                let at = usize::from(*pick) % self.stale.len();
                let (number, delivery) = self.stale[at].clone();
                let expected = if self.is_queued(number) { Settled::Done } else { Settled::Stale };
                assert_eq!(delivery.ack().await.unwrap(), expected);
                self.ready.remove(&number);
                self.leased.retain(|(leased, _)| *leased != number);
            }
            Step::Ack(pick) | Step::Nak(pick) | Step::Dead(pick) => {
                if self.leased.is_empty() {
                    return;
                }
                let (number, delivery) = self.leased.remove(usize::from(*pick) % self.leased.len());
                let settled = match step {
                    Step::Ack(_) => delivery.ack().await.unwrap(),
                    Step::Nak(_) => {
                        self.ready.insert(number);
                        delivery.nak(Duration::ZERO).await.unwrap()
                    }
                    _ => {
                        self.dead.push(number);
                        delivery.dead("x").await.unwrap()
                    }
                };
                assert_eq!(settled, Settled::Done);
                self.stale.push((number, delivery));
            }
            Step::Replay(pick) => self.replay_step(b, *pick).await,
            _ => {
                let depth = b.depth("q").await.unwrap();
                let expected = (self.ready.len() as u64, self.leased.len() as u64, self.dead.len() as u64);
                assert_eq!((depth.ready, depth.leased, depth.dead), expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_model(steps in prop::collection::vec(step(), 10..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let config = EmbeddedConfig::new(folder.path().join("b.redb"));
            let mut b = Backbone::embedded(config.clone()).await.unwrap();
            let mut model = Model::default();
            for step in steps.iter().chain([&Step::List, &Step::Depth, &Step::Replay(0)]) {
                model.step(&mut b, &config, step).await;
            }
            b.close().await;
        });
    }
}
