//! What goes wrong, and when: drawn from the seed before anything begins. At the end all is healed.

use super::network::At;
use super::{Dice, Options};

/// How much of what. Liars stay liars after the healing; everything else passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Nodes that stop without a word and come back.
    pub crashes: u32,
    /// Nodes that stand still for a while and know nothing of it.
    pub pauses: u32,
    /// The mesh falls into two halves, so often.
    pub splits: u32,
    /// Times in which a good part of everything is lost.
    pub storms: u32,
    /// Nodes whose expert takes seconds for a token.
    pub slow: u32,
    pub liars: u32,
    /// Routers that open as many sessions as they can, and vanish.
    pub vanishing: u32,
    /// Nodes with another date.
    pub skewed: u32,
    /// A second process lives under the key of the first node.
    pub twins: bool,
    /// A participant stops the mesh, and the participants let it go on.
    pub halts: u32,
}

impl Faults {
    /// Not everything goes wrong in every mesh: what is never alone is never seen.
    pub fn drawn(seed: u64, nodes: u16) -> Faults {
        let mut dice = Dice(seed ^ 0x51f7);
        let most = u64::from(nodes / 4).clamp(1, 24);
        let mut some = |most: u64| {
            let is_on = dice.percent(50);
            let n = 1 + dice.below(most);
            if is_on { n as u32 } else { 0 }
        };
        Faults {
            crashes: some(most),
            pauses: some(most),
            splits: some(3),
            storms: some(2),
            slow: some(most),
            liars: some(most),
            vanishing: some(2),
            skewed: some(most),
            twins: some(1) > 0,
            halts: some(2),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Start(At),
    Crash(At),
    Pause(At, u64),
    Split(u64),
    Mend,
    Storm(u32),
    Slow(At, u64),
    Lie(At, u64),
    Vanish(At, At),
    Skew(At, i64),
    Halt(u8),
    Resume,
    Heal,
}

/// Warm-up: everybody is there by then.
pub(super) const CALM_US: u64 = 10_000_000;
/// Times that a loss of a third of all packets, and of a tenth, may last.
const STORM_US: u64 = 8_000_000;
const DAY_S: u64 = 86_400;

/// In no order. The twin is the node after the last one.
pub(super) fn schedule(options: &Options, dice: &mut Dice) -> Vec<(u64, Act)> {
    let (nodes, faults) = (u64::from(options.nodes), &options.faults);
    let heal = CALM_US + options.trouble_us;
    let mut acts: Vec<(u64, Act)> = Vec::new();
    for at in 0..options.nodes {
        acts.push((dice.below(1_000_000), Act::Start(at)));
    }
    let span = options.trouble_us.max(1);
    let some = |dice: &mut Dice| (CALM_US + dice.below(span), dice.below(nodes) as At);
    for _ in 0..faults.crashes {
        let (at, node) = some(dice);
        acts.push((at, Act::Crash(node)));
        acts.push((
            (at + 100_000 + dice.below(20_000_000)).min(heal),
            Act::Start(node),
        ));
    }
    for _ in 0..faults.pauses {
        let (at, node) = some(dice);
        let length = [300_000, 2_000_000, 20_000_000][dice.below(3) as usize];
        acts.push((at, Act::Pause(node, (at + dice.below(length)).min(heal))));
    }
    for _ in 0..faults.splits {
        let (at, _) = some(dice);
        let length = [2_000_000, 30_000_000][dice.below(2) as usize];
        acts.push((at, Act::Split(dice.next())));
        acts.push(((at + dice.below(length)).min(heal), Act::Mend));
    }
    for _ in 0..faults.storms {
        let (at, _) = some(dice);
        let ppm = [100_000, 330_000][dice.below(2) as usize];
        acts.push((at, Act::Storm(ppm)));
        acts.push(((at + dice.below(STORM_US)).min(heal), Act::Storm(0)));
    }
    for _ in 0..faults.slow {
        let (at, node) = some(dice);
        acts.push((at, Act::Slow(node, [20, 400][dice.below(2) as usize])));
    }
    // The first node stays honest: somebody must be.
    for _ in 0..faults.liars.min(u32::from(options.nodes - 1)) {
        let node = 1 + dice.below(nodes - 1) as At;
        acts.push((0, Act::Lie(node, dice.next())));
    }
    for _ in 0..faults.vanishing {
        let (at, node) = some(dice);
        acts.push((at, Act::Vanish(node, dice.below(nodes) as At)));
    }
    for _ in 0..faults.skewed {
        let (at, node) = some(dice);
        let hours = [20 * 3600, 3 * DAY_S][dice.below(2) as usize];
        let skew_s = dice.below(2 * hours) as i64 - hours as i64;
        acts.push((at, Act::Skew(node, skew_s)));
    }
    if faults.twins {
        let (at, _) = some(dice);
        acts.push((at, Act::Start(options.nodes)));
    }
    for _ in 0..faults.halts {
        let (at, _) = some(dice);
        acts.push((at, Act::Halt(1 + dice.below(3) as u8)));
        acts.push((at + dice.below(10_000_000), Act::Resume));
    }
    acts.push((heal, Act::Heal));
    acts
}
