//! Will a model fit, and where does it go? Pure arithmetic over three things: what the model needs,
//! what the machine has, what the owner allows. The answer carries its own sums as a sentence, so
//! that a refusal can be checked with a pocket calculator.

use std::fmt;

/// Tokens that a session may hold unless the owner says otherwise. A long chat fits, and the cache
/// of a small model stays smaller than its weights.
pub const CONTEXT_DEFAULT: u32 = 8192;
/// A context that nobody asked for may shrink to fit, but not below this: shorter chats forget
/// their own beginning, which looks like a fault of the model.
pub const CONTEXT_SHRUNK_MIN: u32 = 2048;
/// The shortest context anybody may ask for.
pub const CONTEXT_MIN: u32 = 256;
/// llama.cpp pads its cache to this many cells.
const CELLS_STEP: u32 = 256;
/// Kept free: a tenth of what is free, and no less than this. The tenth covers the allocator and
/// the page cache of big models; the floor leaves room for a desktop's other programs on small
/// machines, which would otherwise swap.
const MARGIN_MIN_BYTES: u64 = 512 << 20;
/// Graphics memory is shared with fewer guests: a compositor, a browser.
const GPU_MARGIN_MIN_BYTES: u64 = 256 << 20;

/// What a model asks for, from its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    pub weights_bytes: u64,
    pub layers: u32,
    /// Cache of one token over all layers, keys and values in f16.
    pub cache_bytes_per_token: u64,
    pub trained_context: u32,
    /// Scratch of the compute graph and of one batch's logits.
    pub scratch_bytes: u64,
}

/// What the machine has to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Memory that can be had without swapping, limits of the container included.
    pub free_bytes: u64,
    /// Physical cores this process may use.
    pub cores: u32,
    pub gpus: Vec<Gpu>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// As llama.cpp calls it: "CUDA0", "Vulkan0", "Metal".
    pub name: String,
    pub free_bytes: u64,
    /// Its memory is the machine's own (integrated graphics, Apple silicon).
    pub shared: bool,
}

/// What the owner allows. None: the plan chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    pub max_memory_bytes: Option<u64>,
    pub context: Option<u32>,
    pub threads: Option<u32>,
    pub gpu_layers: Option<u32>,
    /// Full contexts that the cache holds when memory allows; at least one always.
    pub contexts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Of `layers_total`, counting the output as one, as llama.cpp does.
    pub gpu_layers: u32,
    pub layers_total: u32,
    /// Tokens one session may hold.
    pub context: u32,
    /// Tokens all sessions together may hold.
    pub cells: u32,
    pub threads: u32,
    /// The machine's memory; graphics memory that is its own; what the owner will miss in all.
    pub host_bytes: u64,
    pub gpu_bytes: u64,
    pub cache_bytes: u64,
    /// The sums, in words.
    pub arithmetic: String,
}

impl Plan {
    pub fn total_bytes(&self) -> u64 {
        self.host_bytes.saturating_add(self.gpu_bytes)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("{arithmetic}")]
    TooLarge {
        arithmetic: String,
        /// The longest context that would fit, if any does.
        context_that_fits: Option<u32>,
    },
    #[error("a context of {asked} tokens is too short: the least is {CONTEXT_MIN}")]
    ContextTooShort { asked: u32 },
}

/// Memory this node may fill on this machine, whatever the model.
pub fn budget_bytes(machine: &Machine, max_memory_bytes: Option<u64>) -> u64 {
    let spare = machine
        .free_bytes
        .saturating_sub(margin(machine.free_bytes, MARGIN_MIN_BYTES));
    let own_gpus = machine.gpus.iter().filter(|gpu| !gpu.shared);
    let spare = own_gpus.fold(spare, |sum, gpu| sum.saturating_add(spare_of(gpu)));
    max_memory_bytes.map_or(spare, |limit| limit.min(spare))
}

/// The plan that uses most of the graphics memory and keeps the longest context within the wishes.
pub fn plan(needs: &Needs, machine: &Machine, wishes: &Wishes) -> Result<Plan, PlanError> {
    let trained = needs.trained_context.max(CONTEXT_MIN);
    let wanted = match wishes.context {
        Some(asked) if asked < CONTEXT_MIN => return Err(PlanError::ContextTooShort { asked }),
        Some(asked) => asked.min(trained),
        None => CONTEXT_DEFAULT.min(trained),
    };
    let shortest = match wishes.context {
        Some(_) => wanted,
        None => CONTEXT_SHRUNK_MIN.min(wanted),
    };
    let mut context = wanted;
    loop {
        // More contexts first, then one, then (if nobody asked for this one) a shorter one.
        let mut contexts = wishes.contexts.max(1);
        while contexts > 0 {
            let draft = Draft::new(needs, machine, wishes, context, contexts);
            if draft.fits() {
                return Ok(draft.into_plan());
            }
            contexts -= 1;
        }
        if context <= shortest {
            break;
        }
        context = (context / 2).max(shortest);
    }
    let draft = Draft::new(needs, machine, wishes, shortest, 1);
    Err(PlanError::TooLarge {
        context_that_fits: longest_context(needs, machine, wishes, shortest),
        arithmetic: draft.arithmetic(),
    })
}

/// One way to place the model, not yet judged.
struct Draft<'a> {
    needs: &'a Needs,
    machine: &'a Machine,
    wishes: &'a Wishes,
    context: u32,
    cells: u32,
    gpu_layers: u32,
    cache_bytes: u64,
    host_bytes: u64,
    gpu_bytes: u64,
    /// Host memory that shared graphics take on top of `host_bytes`.
    shared_bytes: u64,
}

impl<'a> Draft<'a> {
    fn new(
        needs: &'a Needs,
        machine: &'a Machine,
        wishes: &'a Wishes,
        context: u32,
        contexts: u32,
    ) -> Draft<'a> {
        let cells = round_up(context.saturating_mul(contexts));
        let cache_bytes = needs.cache_bytes_per_token.saturating_mul(u64::from(cells));
        let total = layers_total(needs);
        let model_bytes = needs.weights_bytes.saturating_add(cache_bytes);
        let layer_bytes = model_bytes.div_ceil(u64::from(total)).max(1);
        let mut left = wishes.gpu_layers.unwrap_or(total).min(total);
        let (mut gpu_layers, mut gpu_bytes, mut shared_bytes) = (0, 0u64, 0u64);
        for gpu in &machine.gpus {
            let room = spare_of(gpu).saturating_sub(needs.scratch_bytes) / layer_bytes;
            let here = left.min(u32::try_from(room).unwrap_or(u32::MAX));
            if here == 0 {
                continue;
            }
            let bytes = layer_bytes * u64::from(here) + needs.scratch_bytes;
            let sum = if gpu.shared {
                &mut shared_bytes
            } else {
                &mut gpu_bytes
            };
            *sum = sum.saturating_add(bytes);
            (gpu_layers, left) = (gpu_layers + here, left - here);
        }
        let on_host = layer_bytes
            .saturating_mul(u64::from(total - gpu_layers))
            .min(model_bytes);
        let host_bytes = on_host.saturating_add(needs.scratch_bytes);
        Draft {
            needs,
            machine,
            wishes,
            context,
            cells,
            gpu_layers,
            cache_bytes,
            host_bytes,
            gpu_bytes,
            shared_bytes,
        }
    }

    fn host_needed(&self) -> u64 {
        self.host_bytes.saturating_add(self.shared_bytes)
    }

    fn margin(&self) -> u64 {
        margin(self.machine.free_bytes, MARGIN_MIN_BYTES)
    }

    fn fits(&self) -> bool {
        let within_machine =
            self.host_needed().saturating_add(self.margin()) <= self.machine.free_bytes;
        let all = self.host_needed().saturating_add(self.gpu_bytes);
        within_machine
            && self
                .wishes
                .max_memory_bytes
                .is_none_or(|limit| all <= limit)
    }

    fn arithmetic(&self) -> String {
        let weights = Size(self.needs.weights_bytes);
        let (cells, cache, scratch) = (
            self.cells,
            Size(self.cache_bytes),
            Size(self.needs.scratch_bytes),
        );
        let all = Size(self.host_needed().saturating_add(self.gpu_bytes));
        let mut text = format!(
            "weights {weights} + cache {cache} ({cells} tokens) + scratch {scratch} = {all}"
        );
        if self.gpu_layers > 0 {
            let (some, total) = (self.gpu_layers, layers_total(self.needs));
            text += &format!(", {some}/{total} layers of it on the GPU");
        }
        let free = Size(self.machine.free_bytes);
        let margin = Size(self.margin());
        let has = Size(self.machine.free_bytes.saturating_sub(self.margin()));
        text += &format!("; memory free {free} - kept free {margin} = {has}");
        if let Some(limit) = self.wishes.max_memory_bytes {
            text += &format!("; max_memory {}", Size(limit));
        }
        text
    }

    fn into_plan(self) -> Plan {
        Plan {
            gpu_layers: self.gpu_layers,
            layers_total: layers_total(self.needs),
            context: self.context,
            cells: self.cells,
            threads: self.wishes.threads.unwrap_or(self.machine.cores).max(1),
            host_bytes: self.host_needed(),
            gpu_bytes: self.gpu_bytes,
            cache_bytes: self.cache_bytes,
            arithmetic: self.arithmetic(),
        }
    }
}

/// Fit is monotone in the context, so halving finds the edge.
fn longest_context(
    needs: &Needs,
    machine: &Machine,
    wishes: &Wishes,
    too_long: u32,
) -> Option<u32> {
    let fits = |steps: u32| Draft::new(needs, machine, wishes, steps * CELLS_STEP, 1).fits();
    let (mut low, mut high) = (1, (too_long / CELLS_STEP).max(1));
    if !fits(low) {
        return None;
    }
    while low + 1 < high {
        let middle = low.midpoint(high);
        if fits(middle) {
            low = middle
        } else {
            high = middle
        }
    }
    Some(low * CELLS_STEP)
}

fn layers_total(needs: &Needs) -> u32 {
    needs.layers.saturating_add(1)
}

fn margin(free_bytes: u64, least: u64) -> u64 {
    (free_bytes / 10).max(least)
}

fn spare_of(gpu: &Gpu) -> u64 {
    gpu.free_bytes
        .saturating_sub(margin(gpu.free_bytes, GPU_MARGIN_MIN_BYTES))
}

fn round_up(cells: u32) -> u32 {
    cells.div_ceil(CELLS_STEP).saturating_mul(CELLS_STEP)
}

/// Bytes for people: 98 MB, 1.6 GB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let text = match bytes {
            0..1_000 => format!("{bytes} B"),
            1_000..1_000_000 => format!("{} KB", bytes / 1_000),
            1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
            _ => format!("{:.1} GB", bytes as f64 / 1e9),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn smol() -> Needs {
        Needs {
            weights_bytes: 98_000_000,
            layers: 30,
            cache_bytes_per_token: 23_040,
            trained_context: 8192,
            scratch_bytes: 64 << 20,
        }
    }

    fn machine(free_bytes: u64) -> Machine {
        Machine {
            free_bytes,
            cores: 2,
            gpus: Vec::new(),
        }
    }

    fn two_contexts() -> Wishes {
        Wishes {
            contexts: 2,
            ..Wishes::default()
        }
    }

    #[test]
    fn a_roomy_machine_gets_the_default_context_twice() {
        let plan = plan(&smol(), &machine(16 << 30), &two_contexts()).unwrap();
        assert_eq!(
            (plan.context, plan.cells, plan.threads, plan.gpu_layers),
            (8192, 16384, 2, 0)
        );
        assert_eq!(plan.host_bytes, 98_000_000 + 16384 * 23_040 + (64 << 20));
    }

    #[test]
    fn a_small_machine_gives_up_the_second_context_and_then_length() {
        let plan_at = |free| plan(&smol(), &machine(free), &two_contexts()).unwrap();
        assert_eq!(
            (plan_at(920 << 20).context, plan_at(920 << 20).cells),
            (8192, 8192)
        );
        assert_eq!(
            (plan_at(780 << 20).context, plan_at(780 << 20).cells),
            (4096, 4096)
        );
    }

    #[test]
    fn a_context_somebody_asked_for_is_kept_or_refused_never_shrunk() {
        let wishes = Wishes {
            context: Some(8192),
            ..two_contexts()
        };
        let error = plan(&smol(), &machine(780 << 20), &wishes).unwrap_err();
        let PlanError::TooLarge {
            arithmetic,
            context_that_fits,
        } = error
        else {
            panic!()
        };
        assert_eq!(
            arithmetic,
            "weights 98 MB + cache 188 MB (8192 tokens) + scratch 67 MB = 353 MB; \
             memory free 817 MB - kept free 536 MB = 281 MB"
        );
        let fits = context_that_fits.unwrap();
        let wishes = |context| Wishes {
            context: Some(context),
            ..two_contexts()
        };
        assert!(plan(&smol(), &machine(780 << 20), &wishes(fits)).is_ok());
        assert!(plan(&smol(), &machine(780 << 20), &wishes(fits + CELLS_STEP)).is_err());
    }

    #[test]
    fn max_memory_bounds_the_plan_and_is_shown() {
        let wishes = Wishes {
            max_memory_bytes: Some(100_000_000),
            ..two_contexts()
        };
        let error = plan(&smol(), &machine(16 << 30), &wishes).unwrap_err();
        assert!(error.to_string().ends_with("max_memory 100 MB"), "{error}");
    }

    #[test]
    fn a_graphics_card_takes_whole_layers() {
        let card = |free_bytes| Gpu {
            name: "CUDA0".to_owned(),
            free_bytes,
            shared: false,
        };
        let with = |free| Machine {
            gpus: vec![card(free)],
            ..machine(16 << 30)
        };
        assert_eq!(
            plan(&smol(), &with(8 << 30), &two_contexts())
                .unwrap()
                .gpu_layers,
            31
        );
        let part = plan(&smol(), &with(512 << 20), &two_contexts()).unwrap();
        assert!((1..31).contains(&part.gpu_layers), "{part:?}");
        assert!(part.gpu_bytes <= 256 << 20);
        let none = Wishes {
            gpu_layers: Some(0),
            ..two_contexts()
        };
        assert_eq!(plan(&smol(), &with(8 << 30), &none).unwrap().gpu_layers, 0);
    }

    #[test]
    fn sizes_read_as_in_a_shop() {
        for (bytes, text) in [
            (7, "7 B"),
            (1_999, "1 KB"),
            (98_362_432, "98 MB"),
            (4_920_000_000, "4.9 GB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    fn any_needs() -> impl Strategy<Value = Needs> {
        (
            0..u64::MAX,
            0..u32::MAX,
            0..u64::MAX,
            0..u32::MAX,
            0..u64::MAX,
            0u32..60,
        )
            .prop_map(
                |(weights, layers, cache, trained_context, scratch, small)| Needs {
                    weights_bytes: weights >> small,
                    layers: layers >> (small / 2),
                    cache_bytes_per_token: cache >> small,
                    trained_context,
                    scratch_bytes: scratch >> small,
                },
            )
    }

    fn any_machine() -> impl Strategy<Value = Machine> {
        let gpu = (0..u64::MAX, 0u32..40, any::<bool>()).prop_map(|(free, small, shared)| Gpu {
            name: String::new(),
            free_bytes: free >> small,
            shared,
        });
        (
            0..u64::MAX,
            0u32..40,
            0..256u32,
            proptest::collection::vec(gpu, 0..4),
        )
            .prop_map(|(free, small, cores, gpus)| Machine {
                free_bytes: free >> small,
                cores,
                gpus,
            })
    }

    fn any_wishes() -> impl Strategy<Value = Wishes> {
        let limit = proptest::option::of(0..u64::MAX);
        let small = || proptest::option::of(0..u32::MAX);
        (limit, small(), small(), small(), 0..9u32).prop_map(
            |(max_memory_bytes, context, threads, gpu_layers, contexts)| Wishes {
                max_memory_bytes,
                context,
                threads,
                gpu_layers,
                contexts,
            },
        )
    }

    proptest! {
        #[test]
        fn a_plan_never_promises_more_than_there_is(
            needs in any_needs(), machine in any_machine(), wishes in any_wishes(),
        ) {
            let Ok(plan) = plan(&needs, &machine, &wishes) else { return Ok(()) };
            prop_assert!(plan.host_bytes <= machine.free_bytes);
            prop_assert!(plan.host_bytes + MARGIN_MIN_BYTES <= machine.free_bytes);
            prop_assert!(wishes.max_memory_bytes.is_none_or(|limit| plan.total_bytes() <= limit));
            prop_assert!(plan.gpu_layers <= plan.layers_total);
            prop_assert!(plan.cells >= plan.context && plan.threads >= 1);
            prop_assert!(plan.context <= needs.trained_context.max(CONTEXT_MIN));
            prop_assert!(wishes.context.is_none_or(|asked| plan.context <= asked));
            prop_assert!(plan.total_bytes() >= needs.weights_bytes, "weights are somewhere");
        }

        #[test]
        fn more_memory_never_hurts(needs in any_needs(), machine in any_machine()) {
            let roomier = Machine {
                free_bytes: machine.free_bytes.saturating_mul(2),
                ..machine.clone()
            };
            let wishes = Wishes { gpu_layers: Some(0), ..two_contexts() };
            if let Ok(small) = plan(&needs, &machine, &wishes) {
                let large = plan(&needs, &roomier, &wishes).unwrap();
                prop_assert!(large.context >= small.context && large.cells >= small.cells);
            }
        }
    }
}
