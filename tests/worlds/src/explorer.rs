//! Every history of a small world.
//!
//! The real code cannot be cloned, so a state is reached by playing the actions that
//! lead to it from the start. States are told apart by a fingerprint; what follows
//! from two that are the same is tried once. Histories are tried the shortest first,
//! so the one that breaks a rule is as short as can be.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

/// A world that can be explored. It panics when a rule is broken.
pub trait Play: Sized {
    /// What can happen in it.
    type Action: Copy + Debug + Send + Sync;

    /// What can happen next, always in the same order.
    fn actions(&self) -> Vec<Self::Action>;

    /// Has it happen, and checks what always has to hold.
    fn act(&mut self, action: Self::Action);

    /// Tells states apart: the same for two only if the same follows from both,
    /// whatever happens.
    fn fingerprint(&self) -> u64;

    /// Lets everything come to rest, and checks what has to hold then.
    fn end(self);
}

/// What was explored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Explored {
    /// Different states, the first among them.
    pub states: usize,
    /// Actions tried in them.
    pub transitions: usize,
    /// Actions on the shortest way to the farthest state.
    pub longest: usize,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, transitions, longest } = self;
        write!(f, "{states} states, {transitions} transitions, {longest} actions to the farthest")
    }
}

/// How a state was reached: from which, by what.
struct Step<A> {
    from: usize,
    action: A,
}

/// All states by the way to them. The first has none.
struct Ways<A>(Vec<Option<Step<A>>>);

impl<A: Copy> Ways<A> {
    fn to(&self, mut state: usize) -> Vec<A> {
        let mut way = Vec::new();
        while let Some(step) = &self.0[state] {
            way.push(step.action);
            state = step.from;
        }
        way.reverse();
        way
    }
}

/// A history that broke a rule, and how.
struct Violation {
    history: String,
    rule: String,
}

/// Explores all that can follow from a world as `start` makes it.
///
/// # Panics
/// With the shortest history that breaks a rule, if there is one.
pub fn explore<W: Play>(start: impl Fn() -> W + Sync) -> Explored {
    let first = start();
    let mut known = HashSet::from([first.fingerprint()]);
    first.end();
    let mut ways = Ways(vec![None]);
    let (mut layer, mut longest, mut transitions) = (0..1, 0, 0);
    while !layer.is_empty() {
        let found = try_layer(&start, &ways, layer.clone().collect());
        let end = layer.end;
        for (from, action, fingerprint) in found {
            transitions += 1;
            if known.insert(fingerprint) {
                ways.0.push(Some(Step { from, action }));
            }
        }
        layer = end..ways.0.len();
        longest += usize::from(!layer.is_empty());
    }
    Explored { states: ways.0.len(), transitions, longest }
}

type Found<A> = (usize, A, u64);

/// Tries all that can happen next in each of `states`, and says where that leads.
fn try_layer<W: Play>(
    start: &(impl Fn() -> W + Sync),
    ways: &Ways<W::Action>,
    states: Vec<usize>,
) -> Vec<Found<W::Action>> {
    let threads = thread::available_parallelism().map_or(1, Into::into);
    let share = states.len().div_ceil(threads);
    let results = thread::scope(|scope| {
        let parts = states.chunks(share).map(|part| {
            scope.spawn(move || {
                let found = part.iter().map(|&state| try_state(start, ways, state));
                found.collect::<Result<Vec<_>, _>>()
            })
        });
        let parts = parts.collect::<Vec<_>>();
        parts.into_iter().map(|part| part.join().expect("it catches panics")).collect::<Vec<_>>()
    });
    // The first of the states is the first here: what is told is the same every time.
    match results.into_iter().collect::<Result<Vec<_>, Violation>>() {
        Ok(found) => found.into_iter().flatten().flatten().collect(),
        Err(Violation { history, rule }) => panic!("{rule}\n{history}"),
    }
}

fn try_state<W: Play>(
    start: &impl Fn() -> W,
    ways: &Ways<W::Action>,
    state: usize,
) -> Result<Vec<Found<W::Action>>, Violation> {
    let way = ways.to(state);
    let play = || {
        let mut world = start();
        way.iter().for_each(|action| world.act(*action));
        world
    };
    let mut found = Vec::new();
    let mut here = Some(play());
    for action in here.as_ref().map_or_else(Vec::new, Play::actions) {
        let world = here.take().unwrap_or_else(play);
        // The world goes where it panics, so that what it holds then is not taken for
        // a leak.
        let rests = Cell::new(false);
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let mut world = world;
            world.act(action);
            let fingerprint = world.fingerprint();
            rests.set(true);
            world.end();
            fingerprint
        }));
        match tried {
            Ok(fingerprint) => found.push((state, action, fingerprint)),
            Err(panic) => return Err(violation(&way, action, rests.get(), &*panic)),
        }
    }
    if let Some(world) = here {
        world.end();
    }
    Ok(found)
}

fn violation<A: Debug>(way: &[A], last: A, rests: bool, panic: &(dyn Any + Send)) -> Violation {
    let mut history = String::new();
    for (n, action) in (1..).zip(way.iter().chain([&last])) {
        history += &format!("{n:>4}. {action:?}\n");
    }
    if rests {
        history += "      and everything comes to rest\n";
    }
    let text = panic.downcast_ref::<String>().cloned();
    let rule = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
    Violation { history, rule: rule.unwrap_or_else(|| "a panic".to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two counters, of which one may be put down again.
    #[derive(Default)]
    struct Counters {
        values: [u64; 2],
        forbidden: Option<[u64; 2]>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Move {
        Up(usize),
        Down,
    }

    impl Play for Counters {
        type Action = Move;

        fn actions(&self) -> Vec<Move> {
            let up = [0, 1].into_iter().filter(|n| self.values[*n] < 3).map(Move::Up);
            up.chain((self.values[0] > 0).then_some(Move::Down)).collect()
        }

        fn act(&mut self, action: Move) {
            match action {
                Move::Up(n) => self.values[n] += 1,
                Move::Down => self.values[0] -= 1,
            }
            assert_ne!(Some(self.values), self.forbidden, "forbidden");
        }

        fn fingerprint(&self) -> u64 {
            10 * self.values[0] + self.values[1]
        }

        fn end(self) {
            assert!(self.values.iter().sum::<u64>() < 7, "never");
        }
    }

    #[test]
    fn every_state_is_visited_once() {
        let explored = explore(Counters::default);
        assert_eq!(explored, Explored { states: 16, transitions: 12 + 12 + 12, longest: 6 });
    }

    #[test]
    fn the_shortest_history_is_told() {
        let forbidden = || Counters { forbidden: Some([2, 1]), ..Counters::default() };
        let told = catch_unwind(|| explore(forbidden)).expect_err("a rule is broken");
        let told = told.downcast_ref::<String>().expect("a text");
        let (rule, history) = told.split_once('\n').expect("a rule, and how");
        assert!(rule.contains("forbidden"), "{rule}");
        let lines = told.lines().filter(|line| line.contains(". ")).count();
        assert_eq!(lines, 3, "{history}");
        assert!(!history.contains("rest"), "{history}");
    }
}
