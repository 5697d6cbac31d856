//! The report as a picture: perplexity over that of the best single expert of each document, with
//! its interval, for every strategy and K.

use super::report::{Report, Row};
use std::fmt::Write;

const LINE: usize = 18;
const LEFT: f64 = 130.0;
const WIDTH: f64 = 480.0;

/// An SVG file.
pub fn svg(report: &Report) -> String {
    let panels: Vec<(&str, Vec<&Row>)> = ["mixed", "pure"]
        .into_iter()
        .map(|set| {
            let rows = report.rows.iter();
            let rows = rows.filter(|row| row.set == set && row.domain == set);
            (set, rows.collect())
        })
        .collect();
    let ends = panels
        .iter()
        .flat_map(|(_, rows)| rows)
        .flat_map(|r| r.vs_oracle.ci);
    let (low, high) = ends.fold((1.0f64, 1.0f64), |(l, h), x| (l.min(x), h.max(x)));
    let (low, high) = (low.ln() - 0.02, high.ln() + 0.02);
    let x = |ratio: f64| LEFT + WIDTH * (ratio.ln() - low) / (high - low);
    let count: usize = panels.iter().map(|(_, rows)| rows.len() + 2).sum();
    let height = (count + 2) * LINE;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"720\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let mut y = LINE;
    for (set, rows) in &panels {
        // Writing to a string cannot fail.
        writeln!(
            out,
            "<text x=\"8\" y=\"{y}\" font-weight=\"bold\">{set} documents</text>"
        )
        .ok();
        y += LINE;
        let (from, to) = (y - LINE / 2, y + rows.len() * LINE - LINE / 2);
        let one = x(1.0);
        writeln!(
            out,
            "<line x1=\"{one:.1}\" y1=\"{from}\" x2=\"{one:.1}\" y2=\"{to}\" stroke=\"#999\" stroke-dasharray=\"3 3\"/>"
        )
        .ok();
        for row in rows {
            line(&mut out, row, y, &x);
            y += LINE;
        }
        y += LINE;
    }
    writeln!(
        out,
        "<text x=\"8\" y=\"{y}\" fill=\"#555\">perplexity over the best single expert of each \
         document (dashed: equal), 95 % by document</text>\n</svg>"
    )
    .ok();
    out
}

fn line(out: &mut String, row: &Row, y: usize, x: &dyn Fn(f64) -> f64) {
    let gain = row.vs_oracle;
    let colour = if row.strategy == "meta" {
        "#b3261e"
    } else {
        "#1a4e8a"
    };
    let (middle, from, to) = (y as f64 - 4.0, x(gain.ci[0]), x(gain.ci[1]));
    let (name, k, ratio, at) = (row.strategy, row.k, gain.ppl_ratio, x(gain.ppl_ratio));
    writeln!(
        out,
        "<text x=\"16\" y=\"{y}\">{name} K={k}</text>\
         <line x1=\"{from:.1}\" y1=\"{middle}\" x2=\"{to:.1}\" y2=\"{middle}\" stroke=\"{colour}\"/>\
         <circle cx=\"{at:.1}\" cy=\"{middle}\" r=\"3\" fill=\"{colour}\"/>\
         <text x=\"650\" y=\"{y}\">{ratio:.3}</text>"
    )
    .ok();
}
