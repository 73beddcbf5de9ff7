//! Bars of medians with their spread, side by side, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::Figure;
use super::rows::Row;

const SIZE: (u32, u32) = (960, 420);
/// Room beside the bars, for each group.
const LEGEND: f64 = 0.8;

const COLOURS: [RGBColor; 3] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(140, 140, 140)];

/// One group of bars to a row, in the order of `names`.
pub(super) fn bars(
    path: &Path,
    title: &str,
    names: &[&str],
    groups: &[(&Row, Vec<Option<Figure>>)],
) -> Result<()> {
    draw(path, title, names, groups).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn draw(
    path: &Path,
    title: &str,
    names: &[&str],
    groups: &[(&Row, Vec<Option<Figure>>)],
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let figures = || groups.iter().flat_map(|(_, figures)| figures.iter().flatten());
    // Sides lie far apart: bars on a linear scale would hide the shorter ones.
    let least = figures().map(|figure| figure.least).fold(f64::INFINITY, f64::min) / 2.0;
    let most = figures().map(|figure| figure.most).fold(0.0, f64::max) * 1.6;
    let width = names.len() + 1;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(
            0.0..(groups.len() * width) as f64 + LEGEND * groups.len() as f64,
            (least..most).log_scale(),
        )?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_desc(groups.first().map_or("", |(row, _)| row.unit))
        .label_style(("sans-serif", 13))
        .draw()?;
    for (side, name) in names.iter().enumerate() {
        let colour = COLOURS[side % COLOURS.len()];
        let bars = groups.iter().enumerate().filter_map(|(group, (_, figures))| {
            let left = (group * width + side) as f64 + 0.5;
            Some((left, figures.get(side)?.as_ref()?))
        });
        let bars: Vec<(f64, &Figure)> = bars.collect();
        let bodies = bars.iter().map(|(left, figure)| {
            Rectangle::new([(left + 0.06, least), (left + 0.94, figure.median)], colour.filled())
        });
        chart
            .draw_series(bodies)?
            .label(*name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
        chart.draw_series(bars.iter().map(|(left, figure)| {
            ErrorBar::new_vertical(
                left + 0.5,
                figure.least,
                figure.median,
                figure.most,
                BLACK.stroke_width(1),
                8,
            )
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .label_font(("sans-serif", 13))
        .draw()?;
    // Names below the groups.
    for (group, (row, _)) in groups.iter().enumerate() {
        let middle = (group * width) as f64 + width as f64 / 2.0;
        let (x, y) = chart.backend_coord(&(middle, least));
        let style =
            ("sans-serif", 13).into_text_style(&root).pos(Pos::new(HPos::Center, VPos::Top));
        root.draw_text(row.short, &style, (x, y + 8))?;
    }
    root.present()?;
    Ok(())
}
