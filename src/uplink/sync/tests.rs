//! Two sides, a road that loses, doubles and reorders between them, crashes on ours, and the law: they end equal.
//!
//! The cloud here is a few lines of its own: it knows nothing of how this gateway keeps shadows.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::{
    look::{Conclusion, Here, decide},
    pair::Pair,
    words::{Heard, Looked, Next, Patience, Request, Settle, Token},
};
use crate::{
    model::{
        shadow::reconcile::{Policy, Sections, Side, Step},
        time::Millis,
    },
    store::sync::{Refused, Standing, Synced},
};

const PATIENCE: Patience =
    Patience { answer: 20_000, interval: 1000, verify: 86_400_000, pause: (1000, 300_000), attempts: 10 };

/// The cloud's shadow service for one shadow.
#[derive(Debug, Default)]
struct Cloud {
    state: Option<Json>,
    version: u64,
}

fn merge(into: &mut Map<String, Json>, patch: &Map<String, Json>) {
    for (name, value) in patch {
        match value {
            Json::Null => drop(into.remove(name)),
            Json::Object(below) => {
                let place = into.entry(name.clone()).or_insert_with(|| json!({}));
                if !place.is_object() {
                    *place = json!({});
                }
                merge(place.as_object_mut().expect("made so"), below);
            }
            _ => drop(into.insert(name.clone(), value.clone())),
        }
    }
}

impl Cloud {
    fn ask(&mut self, request: &Request, token: Option<Token>) -> Heard {
        let no = |code, message: &str| Heard::Rejected { code, message: message.into(), token };
        match request {
            Request::Get => match &self.state {
                Some(state) => Heard::Got { version: self.version, values: Sections::from_state(state), token },
                None => no(404, "No shadow exists"),
            },
            Request::Delete => match self.state.take() {
                Some(_) => {
                    self.version += 1;
                    Heard::Deleted { version: self.version - 1, token }
                }
                None => no(404, "No shadow exists"),
            },
            Request::Update { state, version, .. } => {
                let current = if self.state.is_some() { self.version } else { 0 };
                if version.is_some_and(|version| version != current) {
                    return no(409, "Version conflict");
                }
                let stored = self.state.get_or_insert_with(|| json!({})).as_object_mut().expect("an object");
                for (section, patch) in state.as_object().expect("an object") {
                    match patch {
                        Json::Null => drop(stored.remove(section)),
                        patch => merge(stored, &Map::from_iter([(section.clone(), patch.clone())])),
                    }
                }
                self.version += 1;
                Heard::Updated { version: self.version, state: state.clone(), token }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Act {
    EditHere(Json),
    EditThere(Json),
    DeleteHere,
    DeleteThere,
    /// Whatever the pair wants, with a crash right after it was written down.
    Work {
        crash: bool,
    },
    /// The oldest request reaches the cloud, is lost, or arrives twice.
    Deliver {
        times: u8,
    },
    /// Any answer arrives, once more than it is taken out where it is kept.
    Hear {
        which: usize,
        keep: bool,
    },
    Lose {
        which: usize,
    },
    Wait(i64),
    Cut {
        resumed: bool,
    },
}

fn patch() -> impl Strategy<Value = Json> {
    let value =
        prop_oneof![(0..3_i64).prop_map(Json::from), Just(Json::Null), Just(json!({"x": 1})), Just(json!({"y": {}}))];
    let section = prop::collection::btree_map("[abc]", value, 1..3);
    (any::<bool>(), section).prop_map(|(desired, members)| {
        let members: Map<String, Json> = members.into_iter().collect();
        json!({ if desired { "desired" } else { "reported" }: members })
    })
}

fn acts(here: bool, there: bool) -> impl Strategy<Value = Vec<Act>> {
    let (mine, theirs) = (u32::from(here), u32::from(there));
    let act = prop_oneof![
        8 * mine => patch().prop_map(Act::EditHere),
        8 * theirs => patch().prop_map(Act::EditThere),
        mine => Just(Act::DeleteHere),
        theirs => Just(Act::DeleteThere),
        20 => prop::bool::weighted(0.05).prop_map(|crash| Act::Work { crash }),
        12 => prop_oneof![8 => Just(1_u8), 1 => Just(0), 1 => Just(2)].prop_map(|times| Act::Deliver { times }),
        16 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(which, keep)| Act::Hear { which, keep }),
        2 => any::<usize>().prop_map(|which| Act::Lose { which }),
        6 => (1..30_000_i64).prop_map(Act::Wait),
        2 => any::<bool>().prop_map(|resumed| Act::Cut { resumed }),
    ];
    prop::collection::vec(act, 1..120)
}

struct World {
    cloud: Cloud,
    here: Option<Sections>,
    version: u64,
    synced: Option<Synced>,
    pair: Pair,
    policy: Policy,
    now: Millis,
    life: u64,
    token: u64,
    /// (life, token, request), oldest first.
    requests: Vec<(u64, u64, Request)>,
    /// With the life it belongs to: a token of an earlier one is known as such.
    answers: Vec<(u64, Heard)>,
}

impl World {
    fn new(policy: Policy) -> World {
        World {
            cloud: Cloud::default(),
            here: None,
            version: 0,
            synced: None,
            pair: Pair::new(None),
            policy,
            now: Millis(1_000_000),
            life: 0,
            token: 0,
            requests: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::EditHere(state) => {
                self.here.get_or_insert_default().apply(&state);
                self.version += 1;
                self.pair.changed_here();
            }
            Act::DeleteHere => {
                if self.here.take().is_some() {
                    self.version += 1;
                    self.pair.changed_here();
                }
            }
            Act::EditThere(state) => {
                let heard = self.cloud.ask(&Request::Update { state, version: None, bytes: 0 }, None);
                self.answers.push((self.life, heard));
            }
            Act::DeleteThere => {
                let heard = self.cloud.ask(&Request::Delete, None);
                if matches!(heard, Heard::Deleted { .. }) {
                    self.answers.push((self.life, heard));
                }
            }
            Act::Work { crash } => self.work(crash),
            Act::Deliver { times } => {
                if !self.requests.is_empty() {
                    let (life, number, request) = self.requests.remove(0);
                    for _ in 0..times {
                        let token = Some(Token { number, ours_now: true });
                        self.answers.push((life, self.cloud.ask(&request, token)));
                    }
                }
            }
            Act::Hear { which, keep } => {
                if !self.answers.is_empty() {
                    let which = which % self.answers.len();
                    let answer = self.answers[which].clone();
                    if !keep {
                        self.answers.remove(which);
                    }
                    self.hear(answer);
                }
            }
            Act::Lose { which } => {
                if !self.answers.is_empty() {
                    let which = which % self.answers.len();
                    self.answers.remove(which);
                }
            }
            Act::Wait(millis) => self.now = self.now.plus(millis),
            Act::Cut { resumed } => {
                self.pair.line_down();
                self.requests.clear();
                if !resumed {
                    self.answers.clear();
                }
                self.pair.line_up(resumed);
            }
        }
    }

    fn hear(&mut self, (life, mut heard): (u64, Heard)) {
        if life != self.life
            && let Heard::Updated { token: Some(token), .. }
            | Heard::Deleted { token: Some(token), .. }
            | Heard::Got { token: Some(token), .. }
            | Heard::Rejected { token: Some(token), .. } = &mut heard
        {
            *token = Token { number: 0, ours_now: false };
        }
        let Some(settle) = self.pair.hear(heard, self.now, &PATIENCE) else { return };
        let synced = self.synced.get_or_insert_default();
        match settle {
            Settle::Confirm { version } => {
                let (document, local) = synced.sent.take().expect("written down before it was sent");
                *synced = Synced { document, local_version: local, cloud_version: version, ..Synced::default() };
            }
            Settle::Gone { version } => {
                let local_version = if self.here.is_none() { self.version } else { 0 };
                *synced = Synced { local_version, cloud_version: version, ..Synced::default() };
            }
            Settle::Refuse(refused) => panic!("{refused:?}"),
        }
        self.pair.settled(true, self.now, &PATIENCE);
    }

    fn work(&mut self, crash: bool) {
        match self.pair.next(self.now, &PATIENCE) {
            None => {}
            Some(Next::Ask) => self.send(Request::Get),
            Some(Next::Look { news, version }) => {
                let local = self.here.as_ref().map(|here| here.to_document(self.version));
                let standing = Standing { version: self.version, local, synced: self.synced.clone() };
                let decision = decide(&standing, news.as_ref(), self.policy);
                match &decision.plan.here {
                    None => {}
                    Some(Step::Delete) => {
                        self.here = None;
                        self.version += 1;
                    }
                    Some(Step::Update(state)) => {
                        self.here.get_or_insert_default().apply(state);
                        self.version += 1;
                    }
                }
                assert_eq!(self.here, decision.plan.merged);
                let here = Here { values: self.here.clone(), version: self.version, refusal: None };
                let before = self.synced.clone();
                let Conclusion { synced, request, exact } = decision.conclude(here, version, None, before.as_ref());
                self.synced = Some(synced);
                if crash {
                    self.life += 1;
                    self.pair = Pair::new(None);
                    return;
                }
                let looked = match request.clone() {
                    Some(request) => Looked::Send(request),
                    None => Looked::Settled { exact, kept_out: None },
                };
                if self.pair.looked(&looked, self.now, &PATIENCE)
                    && let Some(request) = request
                {
                    self.send(request);
                }
            }
        }
    }

    fn send(&mut self, request: Request) {
        self.token += 1;
        self.pair.sent(&request, self.token, self.now);
        self.requests.push((self.life, self.token, request));
    }

    /// Nothing is lost any more, nobody changes anything; the road was cut once.
    fn settle(&mut self) {
        while !self.answers.is_empty() {
            self.act(Act::Hear { which: 0, keep: false });
        }
        self.act(Act::Cut { resumed: false });
        for _ in 0..60 {
            self.work(false);
            while !self.requests.is_empty() {
                self.act(Act::Deliver { times: 1 });
            }
            while !self.answers.is_empty() {
                self.act(Act::Hear { which: 0, keep: false });
            }
            self.now = self.now.plus(60_000);
        }
    }

    fn there(&self) -> Option<Sections> {
        self.cloud.state.as_ref().map(Sections::from_state)
    }
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::default()),
        Just(Policy { desired: Side::Here, reported: Side::There }),
        Just(Policy::default().all_here()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn two_sides_end_equal_whatever_the_road_does(acts in acts(true, true), policy in policy()) {
        let mut world = World::new(policy);
        world.pair.line_up(false);
        acts.into_iter().for_each(|act| world.act(act));
        world.settle();
        prop_assert_eq!(&world.here, &world.there());
        prop_assert!(world.pair.is_equal() && world.pair.refused().is_none());
        let synced = world.synced.expect("asked");
        prop_assert_eq!((synced.local_version, synced.sent), (world.version, None));
    }

    /// Nobody but us writes there: what is here stands, whoever wins a conflict. Our own requests, heard late, doubled
    /// or after a crash, are not taken for somebody else's.
    #[test]
    fn our_own_echo_changes_nothing(acts in acts(true, false), policy in policy()) {
        let mut world = World::new(policy);
        world.pair.line_up(false);
        let mut own = World::new(policy);
        for act in acts {
            if matches!(act, Act::EditHere(_) | Act::DeleteHere) {
                own.act(act.clone());
            }
            world.act(act);
            prop_assert_eq!(&world.here, &own.here);
        }
        world.settle();
        prop_assert_eq!(&world.here, &own.here);
        prop_assert_eq!(&world.there(), &own.here);
    }

    /// Nobody writes here: what the cloud holds comes here, and no request but questions is sent.
    #[test]
    fn what_the_cloud_holds_comes_here(acts in acts(false, true), policy in policy()) {
        let mut world = World::new(policy);
        world.pair.line_up(false);
        for act in acts {
            world.act(act);
            prop_assert!(world.requests.iter().all(|(_, _, request)| *request == Request::Get));
        }
        let there = world.there();
        world.settle();
        prop_assert_eq!((&world.here, &world.there()), (&there, &there));
    }
}

/// A pair that has found both sides without a shadow.
fn empty() -> World {
    let mut world = World::new(Policy::default());
    world.pair.line_up(false);
    world.settle();
    world
}

#[test]
fn a_refusal_for_good_is_not_tried_again_until_it_would_be_smaller() {
    let mut world = empty();
    world.act(Act::EditHere(json!({"reported": {"big": "x".repeat(9000)}})));
    let now = world.now;
    let Some(Next::Look { .. }) = world.pair.next(now, &PATIENCE) else { panic!("nothing to do") };
    let request = Request::Update { state: json!({}), version: None, bytes: 9010 };
    assert!(world.pair.looked(&Looked::Send(request.clone()), now, &PATIENCE));
    world.pair.sent(&request, 77, now);
    let no =
        Heard::Rejected { code: 413, message: "too large".into(), token: Some(Token { number: 77, ours_now: true }) };
    let Some(Settle::Refuse(refused)) = world.pair.hear(no, now, &PATIENCE) else { panic!("not refused") };
    assert_eq!((refused.reason.as_str(), refused.bytes), ("413 too large", Some(9010)));
    world.pair.settled(true, now, &PATIENCE);
    assert!(world.pair.may_send(9009) && !world.pair.may_send(9010));
    for hours in 1..20 {
        assert_eq!(world.pair.next(now.plus(hours * 3_600_000), &PATIENCE), None, "{hours} h later");
    }
    world.pair.line_up(true);
    assert_eq!(world.pair.next(now, &PATIENCE), None, "a new connection makes it no smaller");
}

/// Both sides filled up while they could not talk: each is small enough, together they are too large for either.
#[test]
fn what_this_gateway_does_not_take_is_no_equality_until_one_side_changes() {
    let mut world = empty();
    let now = world.now.plus(10_000);
    let too_large = Refused { reason: "not taken by this gateway: too large".into(), bytes: None };
    world.pair.changed_here();
    let Some(Next::Look { .. }) = world.pair.next(now, &PATIENCE) else { panic!("nothing to do") };
    world.pair.looked(&Looked::Settled { exact: false, kept_out: Some(too_large.clone()) }, now, &PATIENCE);
    assert_eq!(world.pair.trouble(), Some(&too_large));
    assert!(world.pair.may_send(9000), "the cloud has refused nothing");
    assert_eq!(world.pair.next(now.plus(3_600_000), &PATIENCE), None, "trying again mends nothing");
    world.pair.changed_here();
    assert_eq!(world.pair.next(now.plus(3_600_000), &PATIENCE), Some(Next::Ask), "smaller by now, perhaps");
    world.pair.looked(&Looked::Settled { exact: true, kept_out: None }, now, &PATIENCE);
    assert_eq!(world.pair.trouble(), None);
}

#[test]
fn what_fails_for_now_is_tried_less_and_less_often_and_then_waits_for_the_next_connection() {
    let mut world = empty();
    world.pair.doubt();
    let (mut now, mut pauses) = (world.now, Vec::new());
    for number in 0.. {
        let Some(at) = world.pair.wake(&PATIENCE) else { break };
        pauses.push(at.since(now).max(0));
        now = now.max(at);
        assert_eq!(world.pair.next(now, &PATIENCE), Some(Next::Ask));
        world.pair.sent(&Request::Get, number, now);
        let token = Some(Token { number, ours_now: true });
        let busy = Heard::Rejected { code: 429, message: "too many requests".into(), token };
        assert_eq!(world.pair.hear(busy, now, &PATIENCE), None);
    }
    assert_eq!(pauses.len(), 11);
    assert!(pauses.windows(2).all(|two| two[1] > two[0] / 2) && *pauses.last().expect("one") >= 150_000, "{pauses:?}");
    assert!(world.pair.refused().expect("gave up").reason.contains("gave up after 10 attempts: 429"));
    world.pair.line_up(true);
    assert_eq!(world.pair.next(now, &PATIENCE), Some(Next::Ask));
}
