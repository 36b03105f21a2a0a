//! The plots of docs/performance/: SVG, drawn from a session's results. A point is a median, the stroke through it the middle eight
//! tenths of the rounds.

use crate::cases::{self, READERS, WRITERS};
use crate::results::Spread;
use crate::subject::Waiting;
use crate::subjects;
use plotters::prelude::*;
use serde_json::Value;

struct Plot {
    file: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    /// A name, and points.
    lines: Vec<(String, Vec<(f64, Spread)>)>,
}

/// The figure of one case and subject, if it was measured.
pub fn find(all: &Value, case: &str, subject: &str) -> Option<Spread> {
    let mut results = all["results"].as_array()?.iter();
    let found = results.find(|result| result["case"] == case && result["subject"] == subject)?;
    Some(Spread {
        low: found["low"].as_f64()?,
        median: found["median"].as_f64()?,
        high: found["high"].as_f64()?,
    })
}

pub fn draw(all: &Value) -> Result<(), String> {
    let folder = crate::docs().join("performance");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for plot in plots(all) {
        if plot.lines.iter().any(|(_, points)| !points.is_empty()) {
            let path = folder.join(plot.file);
            draw_one(&plot, &path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

/// A line for each subject, over the values of one parameter.
fn lines(
    all: &Value,
    over: &[usize],
    case: impl Fn(usize) -> String,
    scale: impl Fn(usize) -> f64,
) -> Vec<(String, Vec<(f64, Spread)>)> {
    let line = |subject: &str| {
        let point = |&value: &usize| {
            let Spread { low, median, high } = find(all, &case(value), subject)?;
            let by = scale(value);
            let spread = Spread {
                low: low * by,
                median: median * by,
                high: high * by,
            };
            (spread.low > 0.0).then_some((value as f64, spread))
        };
        over.iter().filter_map(point).collect::<Vec<_>>()
    };
    let all = subjects::all()
        .into_iter()
        .map(|subject| (subject.name().to_string(), line(subject.name())));
    all.filter(|(_, points)| !points.is_empty()).collect()
}

fn plots(all: &Value) -> Vec<Plot> {
    let as_is = |_: usize| 1.0;
    let trips = |waiting| lines(all, &cases::TRIP_SIZES, |len| cases::trip(waiting, len), as_is);
    let usual_ring = |len: usize| cases::one_way(len, cases::ring_for(len));
    // Small bodies are given in million messages a second.
    let to_gigabytes = |len: usize| if len < 1024 { len as f64 / 1e3 } else { 1.0 };
    let mut among = lines(all, &READERS, cases::append_among, as_is);
    among
        .iter_mut()
        .for_each(|(name, _)| *name = "syncq, append with so many joined".into());
    vec![
        Plot {
            file: "round-trip-spinning.svg",
            title: "Round trip, both ends polling",
            x: "bytes of body",
            y: "ns",
            lines: trips(Waiting::Spin),
        },
        Plot {
            file: "round-trip-sleeping.svg",
            title: "Round trip, both ends asleep between messages",
            x: "bytes of body",
            y: "ns",
            lines: trips(Waiting::Sleep),
        },
        Plot {
            file: "one-way.svg",
            title: "One way, one writer to one reader",
            x: "bytes of body",
            y: "GB/s of bodies",
            lines: lines(all, &cases::ONE_WAY_SIZES, usual_ring, to_gigabytes),
        },
        Plot {
            file: "writers.svg",
            title: "Several writers to one reader, 64 bytes",
            x: "writers",
            y: "million messages a second",
            lines: lines(all, &WRITERS, |count| cases::writers(count, 1), as_is),
        },
        Plot {
            file: "readers.svg",
            title: "One writer to several readers, 64 bytes",
            x: "readers, each of which gets every message",
            y: "million messages a second",
            lines: lines(all, &READERS, cases::readers, as_is),
        },
        Plot {
            file: "joined-readers.svg",
            title: "Append with so many joined readers, 64 bytes",
            x: "joined readers",
            y: "ns",
            lines: among,
        },
        Plot {
            file: "rings.svg",
            title: "One way, 64 bytes, by size of the ring",
            x: "bytes of capacity",
            y: "million messages a second",
            lines: lines(all, &cases::SMALL_RINGS, |ring| cases::one_way(64, ring), as_is),
        },
    ]
}

/// A colour for each subject, the same in all plots; ours are dark and thick.
fn colour(name: &str) -> (RGBColor, u32) {
    const OTHERS: [(u8, u8, u8); 12] = [
        (31, 119, 180),
        (255, 127, 14),
        (44, 160, 44),
        (148, 103, 189),
        (140, 86, 75),
        (227, 119, 194),
        (127, 127, 127),
        (188, 189, 34),
        (23, 190, 207),
        (99, 121, 57),
        (57, 59, 121),
        (173, 73, 74),
    ];
    if name.starts_with("syncq") {
        let red = if name == "syncq single_writer" { 90 } else { 200 };
        return (RGBColor(red, 0, if name == "syncq in place" { 160 } else { 0 }), 3);
    }
    let at = subjects::all()
        .iter()
        .position(|subject| subject.name() == name)
        .unwrap_or(0);
    let (red, green, blue) = OTHERS[at % OTHERS.len()];
    (RGBColor(red, green, blue), 1)
}

/// `64`, `8 Ki`, `1 Mi` for sizes; thousands as they are otherwise.
fn tick(value: f64) -> String {
    match value {
        v if v >= 1048576.0 && v % 1048576.0 == 0.0 => format!("{} Mi", v / 1048576.0),
        v if v >= 1024.0 && v % 1024.0 == 0.0 => format!("{} Ki", v / 1024.0),
        v => format!("{v}"),
    }
}

fn draw_one(plot: &Plot, path: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let points = || plot.lines.iter().flat_map(|(_, points)| points);
    let fold = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(value), high.max(value))
        })
    };
    let (left, right) = fold(&mut points().map(|point| point.0));
    let (bottom, _) = fold(&mut points().map(|point| point.1.low));
    let (_, top) = fold(&mut points().map(|point| point.1.high));
    let root = SVGBackend::new(path, (900, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let (area, legend) = root.split_horizontally(690);
    let mut chart = ChartBuilder::on(&area)
        .caption(plot.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(
            (left * 0.85..right * 1.2).log_scale().base(2.0),
            (bottom * 0.8..top * 1.25).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc(plot.x)
        .y_desc(plot.y)
        .x_label_formatter(&|value| tick(*value))
        .y_label_formatter(&|value| format!("{value}"))
        .light_line_style(WHITE)
        .draw()?;
    for (place, (name, points)) in plot.lines.iter().enumerate() {
        let (colour, width) = colour(name);
        let style = colour.stroke_width(width);
        chart.draw_series(LineSeries::new(
            points.iter().map(|(x, spread)| (*x, spread.median)),
            style,
        ))?;
        chart.draw_series(
            points
                .iter()
                .map(|(x, spread)| PathElement::new([(*x, spread.low), (*x, spread.high)], colour)),
        )?;
        chart.draw_series(
            points
                .iter()
                .map(|(x, spread)| Circle::new((*x, spread.median), 3, colour.filled())),
        )?;
        let y = 60 + 22 * place as i32;
        legend.draw(&PathElement::new([(0, y), (22, y)], style))?;
        legend.draw(&Text::new(name.clone(), (28, y - 6), ("sans-serif", 13)))?;
    }
    root.present()?;
    Ok(())
}
