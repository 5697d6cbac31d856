//! What goes into the next step: drafts first, then as much prompt as the time budget allows.

use super::cost::{CostModel, StepShape};

/// A session that has tokens to compute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Demand {
    /// Index of the session, oldest first.
    pub(super) session: usize,
    pub(super) rows: usize,
    /// Its text so far in the cache.
    pub(super) depth: usize,
    /// The step before which it asked: who waits longest goes first, so nobody starves.
    pub(super) since: u64,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Somebody waits for the opinion: all rows at once.
    Draft,
    /// A prompt, or a long catch-up: in chunks. `scored`: every row has an output.
    Prompt { scored: bool },
}

/// This many rows of this session go into the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) session: usize,
    pub(super) rows: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// How long a step may take.
    pub(super) step_us: f64,
    /// ...and how long with prompt rows in it, while others wait for their next token.
    pub(super) shared_us: f64,
    /// Rows of one llama.cpp batch.
    pub(super) rows: usize,
    /// Rows with logits in one step: the buffer for them is never given back.
    pub(super) outputs: usize,
    pub(super) cells: usize,
    /// Attention skips what a row may not see (flash attention); otherwise it pays for all cells.
    pub(super) skips_masked: bool,
    /// Streams are running, whether or not they have a draft in this step.
    pub(super) streaming: bool,
}

/// A prompt gets this many rows however slow the machine is: it must end some day.
const PROMPT_ROWS_MIN: usize = 4;

/// Fills `shares`; sessions in the order of `demands` (oldest first).
pub(super) fn plan(
    demands: &[Demand],
    budget: Budget,
    cost: &mut CostModel,
    shares: &mut Vec<Share>,
) -> StepShape {
    shares.clear();
    let mut shape = StepShape {
        cells: budget.cells,
        ..StepShape::default()
    };
    let mut drafts: Vec<&Demand> = demands.iter().filter(|d| d.kind == Kind::Draft).collect();
    drafts.sort_by_key(|draft| draft.since);
    for demand in drafts {
        let more = grow(shape, demand, demand.rows, demand.rows, budget.skips_masked);
        let fits = more.rows <= budget.rows
            && more.outputs <= budget.outputs
            && cost.predict_us(more) <= budget.step_us;
        if shape.rows == 0 || fits {
            shares.push(Share {
                session: demand.session,
                rows: demand.rows,
            });
            shape = more;
        }
    }
    let decoding = budget.streaming || shape.rows > 0;
    let limit_us = if decoding {
        budget.shared_us
    } else {
        budget.step_us
    };
    add_prompts(demands, budget, limit_us, cost, shares, shape)
}

/// The oldest prompt may take the whole budget if it is alone, half of it if others wait; the rest
/// goes to the shortest first. So a question of ten tokens does not wait for a book, and the book
/// moves on under a stream of questions.
fn add_prompts(
    demands: &[Demand],
    budget: Budget,
    limit_us: f64,
    cost: &mut CostModel,
    shares: &mut Vec<Share>,
    mut shape: StepShape,
) -> StepShape {
    let mut prompts: Vec<&Demand> = demands.iter().filter(|d| d.kind != Kind::Draft).collect();
    let Some(&oldest) = prompts.first() else {
        return shape;
    };
    let spent_us = cost.predict_us(shape);
    let half_us = if prompts.len() == 1 {
        limit_us
    } else {
        spent_us + (limit_us - spent_us) / 2.0
    };
    shape = add_prompt(
        oldest,
        budget,
        half_us,
        PROMPT_ROWS_MIN,
        cost,
        shares,
        shape,
    );
    prompts[1..].sort_by_key(|d| (d.rows, d.session));
    for demand in &prompts[1..] {
        shape = add_prompt(demand, budget, limit_us, 0, cost, shares, shape);
    }
    shape
}

fn add_prompt(
    demand: &Demand,
    budget: Budget,
    limit_us: f64,
    at_least: usize,
    cost: &mut CostModel,
    shares: &mut Vec<Share>,
    shape: StepShape,
) -> StepShape {
    let scored = demand.kind == Kind::Prompt { scored: true };
    let with = |rows: usize| {
        let outputs = if scored {
            rows
        } else {
            usize::from(rows == demand.rows)
        };
        grow(shape, demand, rows, outputs, budget.skips_masked)
    };
    let room = budget.rows.saturating_sub(shape.rows);
    let room = if scored {
        room.min(budget.outputs.saturating_sub(shape.outputs))
    } else {
        room
    };
    let most = demand.rows.min(room);
    // The prediction grows with the rows, so the largest count that fits is found by halving.
    let (mut fits, mut too_many) = (0, most + 1);
    while too_many - fits > 1 {
        let middle = fits.midpoint(too_many);
        if cost.predict_us(with(middle)) <= limit_us {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    let rows = fits.max(at_least.min(most));
    if rows == 0 {
        return shape;
    }
    shares.push(Share {
        session: demand.session,
        rows,
    });
    with(rows)
}

fn grow(shape: StepShape, demand: &Demand, rows: usize, outputs: usize, skips: bool) -> StepShape {
    let cells = shape.cells + rows;
    let all = shape.rows + rows;
    let work = if skips {
        shape.work + rows * (demand.depth + rows / 2)
    } else {
        all * cells
    };
    StepShape {
        rows: all,
        outputs: shape.outputs + outputs,
        cells,
        work,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        Budget {
            step_us: 100_000.0,
            shared_us: 60_000.0,
            rows: 128,
            outputs: 64,
            cells: 0,
            skips_masked: false,
            streaming: false,
        }
    }

    fn cost() -> CostModel {
        CostModel::new(7_000.0)
    }

    fn prompt(session: usize, rows: usize) -> Demand {
        Demand {
            session,
            rows,
            depth: 0,
            since: 0,
            kind: Kind::Prompt { scored: false },
        }
    }

    fn draft(session: usize, rows: usize) -> Demand {
        Demand {
            session,
            rows,
            depth: 100,
            since: 0,
            kind: Kind::Draft,
        }
    }

    fn planned(demands: &[Demand], budget: Budget) -> (Vec<Share>, StepShape) {
        let mut shares = Vec::new();
        let shape = plan(demands, budget, &mut cost(), &mut shares);
        (shares, shape)
    }

    #[test]
    fn every_stream_is_in_the_step_before_any_prompt() {
        let demands = [prompt(0, 6_000), draft(1, 1), draft(2, 1)];
        let (shares, shape) = planned(&demands, budget());
        assert_eq!(
            shares[0],
            Share {
                session: 1,
                rows: 1
            }
        );
        assert_eq!(
            shares[1],
            Share {
                session: 2,
                rows: 1
            }
        );
        assert_eq!(shares[2].session, 0);
        assert!(cost().predict_us(shape) <= 60_000.0);
        assert!(shares[2].rows >= 8, "{shares:?}");
    }

    #[test]
    fn a_long_prompt_keeps_the_budget_at_any_depth() {
        for cells in [0, 1_000, 6_000, 30_000] {
            for streaming in [false, true] {
                let budget = Budget {
                    cells,
                    streaming,
                    ..budget()
                };
                let (shares, shape) = planned(&[prompt(0, 6_000)], budget);
                let limit = if streaming { 60_000.0 } else { 100_000.0 };
                let forced = shares[0].rows == PROMPT_ROWS_MIN;
                assert!(
                    forced || cost().predict_us(shape) <= limit,
                    "{cells} {shares:?}"
                );
            }
        }
    }

    #[test]
    fn a_question_does_not_wait_for_a_book_and_the_book_moves_on() {
        let mut demands = vec![prompt(0, 6_000)];
        demands.extend((1..10).map(|session| prompt(session, 10)));
        let (shares, _) = planned(&demands, budget());
        assert_eq!(shares[0].session, 0);
        assert!(shares.len() > 1, "{shares:?}");
    }

    #[test]
    fn batches_and_outputs_are_bounded() {
        let many: Vec<Demand> = (0..16).map(|session| draft(session, 64)).collect();
        let (shares, shape) = planned(
            &many,
            Budget {
                step_us: 1e12,
                ..budget()
            },
        );
        assert!(
            shape.rows <= 128 && shape.outputs <= 64,
            "{shape:?} {shares:?}"
        );
        let scored = Demand {
            kind: Kind::Prompt { scored: true },
            ..prompt(0, 6_000)
        };
        let (_, shape) = planned(
            &[scored],
            Budget {
                step_us: 1e12,
                ..budget()
            },
        );
        assert_eq!(shape.outputs, 64);
    }

    #[test]
    fn who_waited_longest_goes_first() {
        let drafts = [
            Demand {
                since: 9,
                ..draft(0, 100)
            },
            Demand {
                since: 3,
                ..draft(1, 100)
            },
        ];
        let (shares, _) = planned(&drafts, budget());
        assert_eq!(
            shares,
            [Share {
                session: 1,
                rows: 100
            }]
        );
    }

    #[test]
    fn sixteen_streams_leave_a_prompt_its_minimum() {
        let mut demands = vec![prompt(0, 500)];
        demands.extend((1..16).map(|session| draft(session, 1)));
        let (shares, _) = planned(
            &demands,
            Budget {
                cells: 8_000,
                ..budget()
            },
        );
        assert!(shares.iter().any(|share| share.session == 0));
    }
}
