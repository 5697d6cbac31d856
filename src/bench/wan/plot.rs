//! The rows of replays as a picture: tokens per second over the round trip, one panel for each text.

use super::{Mode, Source, WanRow};
use std::fmt::Write;

const PANEL: (f64, f64) = (300.0, 260.0);
/// Around each panel: room for numbers on the left and below, for a title above.
const LEFT: f64 = 46.0;
const TOP: f64 = 30.0;
/// Above all of them.
const LEGEND: f64 = 48.0;
const LEGEND_COLUMNS: usize = 3;
const BELOW: f64 = 48.0;
const GAP: f64 = 16.0;
/// Panels beside each other; then a new line.
const COLUMNS: usize = 3;
/// Tokens per second that have a line; the scale is logarithmic, from the first to the last.
const RATES: [f64; 6] = [2.0, 5.0, 10.0, 20.0, 50.0, 100.0];

/// A text's rows.
struct Panel<'a> {
    text: &'a str,
    rows: Vec<&'a WanRow>,
}

pub(super) fn svg(rows: &[WanRow]) -> String {
    let panels = panels(rows);
    let (column, line) = (PANEL.0 + LEFT + GAP, PANEL.1 + TOP + BELOW);
    let width = COLUMNS as f64 * column;
    let height = LEGEND + panels.len().div_ceil(COLUMNS) as f64 * line;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (n, panel) in panels.iter().enumerate() {
        let left = LEFT + (n % COLUMNS) as f64 * column;
        let down = LEGEND + (n / COLUMNS) as f64 * line;
        // Writing to a string cannot fail.
        writeln!(out, "<g transform=\"translate({left} {down})\">").ok();
        panel.draw(&mut out);
        out += "</g>\n";
    }
    legend(&mut out);
    out += "</svg>\n";
    out
}

fn panels(rows: &[WanRow]) -> Vec<Panel<'_>> {
    let mut panels: Vec<Panel<'_>> = Vec::new();
    for row in rows.iter().filter(|row| row.source == Source::Replay) {
        match panels.last_mut() {
            Some(panel) if panel.text == row.text => panel.rows.push(row),
            _ => panels.push(Panel {
                text: &row.text,
                rows: vec![row],
            }),
        }
    }
    panels
}

fn colour(mode: Mode) -> &'static str {
    match mode {
        Mode::Naive => "#888888",
        Mode::Block => "#d9822b",
        Mode::Stream => "#1f6fb4",
        Mode::Branches => "#8a4fbf",
        Mode::Handover => "#3a8f4d",
    }
}

fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Naive => "a round trip for every token",
        Mode::Block => "guesses in blocks",
        Mode::Stream => "guesses as a stream",
        Mode::Branches => "second choices beside them",
        Mode::Handover => "one expert at a time",
    }
}

/// From the top of the panel.
fn height_of(rate: f64) -> f64 {
    let (least, most) = (RATES[0].ln(), RATES[RATES.len() - 1].ln());
    let up = (rate.ln() - least) / (most - least);
    TOP + PANEL.1 * (1.0 - up.clamp(0.0, 1.0))
}

impl Panel<'_> {
    fn draw(&self, out: &mut String) {
        let most = self.rows.iter().map(|row| row.rtt_ms).fold(1.0, f64::max);
        let x = |rtt_ms: f64| PANEL.0 * rtt_ms / most;
        self.axes(x, out);
        for mode in Mode::ALL {
            let rows = || self.rows.iter().filter(move |row| row.mode == mode);
            if rows().next().is_none() {
                continue;
            }
            let line: Vec<String> = rows()
                .map(|row| format!("{:.1},{:.1}", x(row.rtt_ms), height_of(row.predicted_tps)))
                .collect();
            let (line, colour) = (line.join(" "), colour(mode));
            writeln!(
                out,
                "<polyline points=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
            )
            .ok();
            for row in rows() {
                let (x, y) = (x(row.rtt_ms), height_of(row.tps));
                writeln!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"
                )
                .ok();
            }
        }
    }

    fn axes(&self, x: impl Fn(f64) -> f64, out: &mut String) {
        let (right, bottom) = (PANEL.0, TOP + PANEL.1);
        for rate in RATES {
            let y = height_of(rate);
            writeln!(
                out,
                "<line x1=\"0\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"-6\" y=\"{:.1}\" text-anchor=\"end\">{rate}</text>",
                y + 4.0
            )
            .ok();
        }
        let mut marked = f64::NEG_INFINITY;
        for row in self.rows.iter().filter(|row| row.mode == Mode::Naive) {
            let at = x(row.rtt_ms);
            if at < marked + 24.0 {
                continue; // its number would stand on the one before
            }
            marked = at;
            writeln!(
                out,
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 18.0,
                row.rtt_ms
            )
            .ok();
        }
        writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">round trip, ms</text>\
             <text x=\"0\" y=\"{}\" font-weight=\"bold\">{}</text>",
            PANEL.0 / 2.0,
            bottom + 38.0,
            TOP - 12.0,
            self.title()
        )
        .ok();
    }

    fn title(&self) -> String {
        let guessed = self.rows.iter().filter(|row| row.mode == Mode::Stream);
        let (mut sum, mut count) = (0.0, 0.0);
        for row in guessed {
            (sum, count) = (sum + row.alpha, count + 1.0);
        }
        let sampler = self.rows.first().map_or("", |row| row.sampler);
        if count == 0.0 {
            return format!("tokens/s, {sampler}, by turns");
        }
        format!("tokens/s, {sampler}, {:.2} of guesses right", sum / count)
    }
}

fn legend(out: &mut String) {
    for (n, mode) in Mode::ALL.into_iter().enumerate() {
        let left = LEFT + (n % LEGEND_COLUMNS) as f64 * 210.0;
        let middle = 14.0 + (n / LEGEND_COLUMNS) as f64 * 20.0;
        let (colour, name) = (colour(mode), name(mode));
        writeln!(
            out,
            "<line x1=\"{left}\" y1=\"{middle}\" x2=\"{}\" y2=\"{middle}\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
             <circle cx=\"{}\" cy=\"{middle}\" r=\"3.5\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            left + 28.0,
            left + 14.0,
            left + 34.0,
            middle + 4.0
        )
        .ok();
    }
    writeln!(
        out,
        "<text x=\"{}\" y=\"38\" fill=\"#555555\">points: measured; lines: predicted</text>",
        LEFT + 2.0 * 210.0
    )
    .ok();
}

#[cfg(test)]
mod tests {
    use super::super::record::By;
    use super::*;

    fn row(by: By, rtt_ms: f64, mode: Mode, tps: f64) -> WanRow {
        WanRow {
            text: format!("{by:?}"),
            source: Source::Replay,
            rtt_ms,
            k: 4,
            mode,
            compute_ms: 30.0,
            draft_ms: 10.0,
            alpha: 0.8,
            sampler: "seeded",
            link: "distance".into(),
            lag: 0,
            c_ms: Some(30.0),
            td_ms: Some(10.0),
            hit_rate: None,
            skip_pct: 0.0,
            led_pct: 0.0,
            tps,
            predicted_tps: tps,
            equal_pct: 100.0,
            first_divergence: None,
            p99_gap_ms: 0.0,
            wasted_checks: 0.0,
            bytes_per_expert_token: 0.0,
            set_tps: None,
            path_ms: rtt_ms,
            tokens: 1,
            work_ms: None,
            load: None,
        }
    }

    #[test]
    fn a_panel_for_each_text_and_a_point_for_each_row() {
        let mut rows = Vec::new();
        for by in [By::Mixing, By::Rejection, By::Turns] {
            for rtt_ms in [0.0, 200.0, 400.0] {
                rows.extend(by.modes().iter().map(|&mode| row(by, rtt_ms, mode, 10.0)));
            }
        }
        let svg = svg(&rows);
        let legend = Mode::ALL.len();
        assert_eq!(svg.matches("<circle").count(), rows.len() + legend);
        assert_eq!(svg.matches("<polyline").count(), 4 + 3 + 2);
        assert_eq!(svg.matches("of guesses right").count(), 2);
        assert_eq!(svg.matches("by turns").count(), 1);
        assert!(!svg.contains("NaN"));
        assert!(height_of(100.0) < height_of(2.0), "more is higher");
    }
}
