//! What a step will cost, learned from what steps did cost.
//!
//! time = a + b·rows + o·outputs + c·cells + d·work, where `work` counts the (row, cell) pairs that
//! attention looks at. On two cores and a 135M model a row costs 3 ms at depth 0 and 8 ms at depth
//! 6,000, so a model without depth would be wrong by more than the budget it has to keep.
//!
//! The last few steps of every size and depth are kept; the quicker half of them is fitted anew by
//! least squares on relative errors, because what other programs take of the machine only ever makes a
//! step slower. A ridge holds what the steps say nothing about at its first guess.

/// What a step consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct StepShape {
    pub(super) rows: usize,
    /// Rows whose logits are computed: the output layer is a fifth of a small model.
    pub(super) outputs: usize,
    /// Cells in use at the step.
    pub(super) cells: usize,
    /// (row, cell) pairs of attention.
    pub(super) work: usize,
}

const FEATURES: usize = 5;
type Vector = [f64; FEATURES];

impl StepShape {
    fn features(self) -> Vector {
        let [rows, outputs, cells, work] =
            [self.rows, self.outputs, self.cells, self.work].map(|n| n as f64);
        [1.0, rows, outputs, cells, work]
    }
}

/// Kept per bucket: enough to average noise, few enough to follow a machine that gets busy.
const KEPT: usize = 4;
/// Buckets: row counts by powers of two up to 1024, cells by powers of two from 256 to 128k.
const ROW_BUCKETS: usize = 11;
const CELL_BUCKETS: usize = 10;
/// Pull towards the first guess, in units of one observation's relative error.
const RIDGE: f64 = 1e-3;
/// A step this many times slower than predicted was preempted by another program: it is counted as
/// this much, so that one hiccup does not shrink the chunks of the next second.
const OUTLIER: f64 = 2.5;

#[derive(Debug, Default, Clone)]
struct Bucket {
    seen: Vec<(StepShape, f64)>,
    next: usize,
}

impl Bucket {
    /// The steps of this size that nothing held up, as far as the last fit can tell.
    fn quick(&self, fitted: &Vector) -> impl Iterator<Item = &(StepShape, f64)> {
        let fitted = *fitted;
        self.seen.iter().filter(move |step| {
            let ratio =
                |(shape, us): &(StepShape, f64)| us / dot(&fitted, &shape.features()).max(1.0);
            let quicker = self.seen.iter().filter(|other| ratio(other) < ratio(step));
            quicker.count() < self.seen.len().div_ceil(2)
        })
    }
}

#[derive(Debug)]
pub(super) struct CostModel {
    buckets: Vec<Bucket>,
    /// First guess, from one warm-up step of one row.
    guess: Vector,
    fitted: Vector,
    stale: bool,
}

impl CostModel {
    /// `one_row_us`: time of a step with one row, one output and an empty cache.
    pub(super) fn new(one_row_us: f64) -> CostModel {
        let t = one_row_us.max(1.0);
        let guess = [0.4 * t, 0.4 * t, 0.2 * t, 1e-4 * t, 1e-4 * t];
        CostModel {
            buckets: vec![Bucket::default(); ROW_BUCKETS * CELL_BUCKETS],
            guess,
            fitted: guess,
            stale: false,
        }
    }

    pub(super) fn observe(&mut self, shape: StepShape, us: f64) {
        let us = us.clamp(1.0, OUTLIER * self.predict_us(shape).max(1.0));
        let rows = (shape.rows.max(1).ilog2() as usize).min(ROW_BUCKETS - 1);
        let cells = ((shape.cells / 256).max(1).ilog2() as usize).min(CELL_BUCKETS - 1);
        let bucket = &mut self.buckets[rows * CELL_BUCKETS + cells];
        if bucket.seen.len() < KEPT {
            bucket.seen.push((shape, us));
        } else {
            bucket.seen[bucket.next] = (shape, us);
            bucket.next = (bucket.next + 1) % KEPT;
        }
        self.stale = true;
    }

    pub(super) fn predict_us(&mut self, shape: StepShape) -> f64 {
        if std::mem::take(&mut self.stale) {
            self.fit();
        }
        dot(&self.fitted, &shape.features())
    }

    /// Solves in units of the guess, so that every coefficient starts at 1.
    fn fit(&mut self) {
        let mut matrix = [[0.0; FEATURES]; FEATURES];
        let mut right = [RIDGE; FEATURES];
        for (i, row) in matrix.iter_mut().enumerate() {
            row[i] = RIDGE;
        }
        let quick = self.buckets.iter().flat_map(|b| b.quick(&self.fitted));
        for (shape, us) in quick {
            let mut x = shape.features();
            for (x, guess) in x.iter_mut().zip(&self.guess) {
                *x *= guess / us;
            }
            for (i, row) in matrix.iter_mut().enumerate() {
                right[i] += x[i];
                row.iter_mut()
                    .zip(&x)
                    .for_each(|(sum, other)| *sum += x[i] * other);
            }
        }
        let solved = solve(matrix, right);
        // Time never falls with more work; noise may say so.
        self.fitted = std::array::from_fn(|i| self.guess[i] * solved[i].max(0.0));
    }
}

fn dot(a: &Vector, b: &Vector) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Gauss without pivoting: the matrix is positive definite, the ridge sees to it.
fn solve(mut matrix: [Vector; FEATURES], mut right: Vector) -> Vector {
    for i in 0..FEATURES {
        for k in i + 1..FEATURES {
            let pivot = matrix[i];
            let factor = matrix[k][i] / pivot[i];
            for (below, above) in matrix[k].iter_mut().zip(&pivot) {
                *below -= factor * above;
            }
            right[k] -= factor * right[i];
        }
    }
    for i in (0..FEATURES).rev() {
        for j in i + 1..FEATURES {
            right[i] -= matrix[i][j] * right[j];
        }
        right[i] /= matrix[i][i];
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The machine of the module's comment, without flash attention.
    fn truth_us(shape: StepShape) -> f64 {
        3_500.0
            + 2_700.0 * shape.rows as f64
            + 500.0 * shape.outputs as f64
            + 2.4 * shape.cells as f64
            + 0.75 * shape.work as f64
    }

    fn shape(rows: usize, outputs: usize, cells: usize) -> StepShape {
        StepShape {
            rows,
            outputs,
            cells,
            work: rows * cells,
        }
    }

    #[test]
    fn a_prompt_teaches_what_depth_costs() {
        let mut model = CostModel::new(7_000.0);
        for i in 0..100 {
            let seen = shape(16, 0, i * 16);
            model.observe(seen, truth_us(seen));
            let next = shape(16, 0, (i + 1) * 16);
            if i > 3 {
                let error = model.predict_us(next) / truth_us(next) - 1.0;
                assert!(error.abs() < 0.1, "step {i}: off by {error}");
            }
        }
    }

    #[test]
    fn decoding_for_long_does_not_forget_prefill() {
        let mut model = CostModel::new(7_000.0);
        for cells in (0..2_000).step_by(20) {
            model.observe(shape(20, 0, cells), truth_us(shape(20, 0, cells)));
        }
        for cells in 2_000..4_000 {
            model.observe(shape(1, 1, cells), truth_us(shape(1, 1, cells)));
        }
        let chunk = shape(20, 0, 4_000);
        let error = model.predict_us(chunk) / truth_us(chunk) - 1.0;
        assert!(error.abs() < 0.1, "off by {error}");
    }

    #[test]
    fn one_hiccup_is_not_believed() {
        let mut model = CostModel::new(7_000.0);
        for i in 0..50 {
            let seen = shape(16, 0, i * 16);
            model.observe(seen, truth_us(seen));
        }
        model.observe(shape(16, 0, 800), 2_000_000.0);
        let next = shape(16, 0, 816);
        assert!(model.predict_us(next) < 1.5 * truth_us(next));
    }

    #[test]
    fn a_busy_neighbour_does_not_shrink_the_chunks() {
        let mut model = CostModel::new(7_000.0);
        for i in 0..60 {
            let seen = shape(16, 0, i * 16);
            let held_up = if i % 3 == 0 { 1.6 } else { 1.0 };
            model.observe(seen, held_up * truth_us(seen));
        }
        let next = shape(16, 0, 960);
        let error = model.predict_us(next) / truth_us(next) - 1.0;
        assert!(error.abs() < 0.05, "off by {error}");
    }

    #[test]
    fn a_machine_that_became_slow_is_believed() {
        let mut model = CostModel::new(7_000.0);
        for i in 0..40 {
            model.observe(shape(16, 0, i), truth_us(shape(16, 0, i)));
        }
        for i in 40..60 {
            model.observe(shape(16, 0, i), 2.0 * truth_us(shape(16, 0, i)));
        }
        let next = shape(16, 0, 60);
        let error = model.predict_us(next) / (2.0 * truth_us(next)) - 1.0;
        assert!(error.abs() < 0.1, "off by {error}");
    }

    #[test]
    fn predictions_are_never_negative() {
        let mut model = CostModel::new(7_000.0);
        for rows in [1, 64, 2, 32] {
            model.observe(shape(rows, 0, 0), 10_000.0 / rows as f64);
        }
        assert!(model.predict_us(shape(1000, 0, 10_000)) > 0.0);
    }
}
