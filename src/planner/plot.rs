//! The plot of a plan: avoided delays against extra calls, by mode.

use std::ops::Range;

use plotters::prelude::*;

/// The results of one mode. One point is drawn as a mark, several as a line through their marks
/// in the given order.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The name in the legend.
    pub name: String,
    /// At least one run: its extra calls as a share of the least calls, and the share of the
    /// avoidable delays that it avoided, both in percent.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    fn is_line(&self) -> bool {
        self.points.len() > 1
    }
}

/// The plot can't be drawn, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot draw the plot: {0}")]
pub struct PlotError(String);

/// Draws the curves as an SVG of [`SIZE`], deterministically.
///
/// The background is white, so that it is readable in dark viewers. The x axis covers the
/// lines and the marks at most twice as far out: a distant mark would squeeze the lines into a
/// corner. It is drawn at the edge, and the legend gives its place.
pub fn svg(curves: &[Curve], title: &str) -> Result<String, PlotError> {
    if curves.iter().flat_map(|curve| &curve.points).any(|(x, y)| !(x.is_finite() && y.is_finite())) {
        return Err(PlotError("a point's shares are not finite numbers".to_owned()));
    }
    let mut text = String::new();
    draw(curves, &Frame::of(curves), title, &mut text).map_err(|error| PlotError(error.to_string()))?;
    Ok(text)
}

/// Width and height in pixels.
pub const SIZE: (u32, u32) = (800, 500);

/// The ranges of the axes, in percent.
struct Frame {
    x: Range<f64>,
    y: Range<f64>,
}

impl Frame {
    fn of(curves: &[Curve]) -> Self {
        let lines = || curves.iter().filter(|curve| curve.is_line()).flat_map(|curve| &curve.points);
        let all = || curves.iter().flat_map(|curve| &curve.points);
        let most = |most: f64, (x, _): &(f64, f64)| most.max(*x);
        let reach = lines().fold(LEAST_REACH, most);
        let near = |(x, _): &&(f64, f64)| lines().next().is_none() || *x <= 2.0 * reach;
        let right = all().filter(near).fold(reach, most);
        // Shares are negative if a tight budget leaves requests unanswered, or renewals delay users.
        let left = all().fold(0.0, |least: f64, (x, _)| least.min(*x)).max(-100.0);
        let below = all().fold(0.0, |least: f64, (_, y)| least.min(*y)).max(-100.0);
        Self { x: left..right * 1.04, y: below..104.0 }
    }

    /// The nearest point inside the axes.
    fn hold(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (x.clamp(self.x.start, self.x.end), y.clamp(self.y.start, self.y.end))
    }

    /// The position on the right-hand side where the legend hides the fewest marks.
    fn legend(&self, curves: &[Curve]) -> SeriesLabelPosition {
        use SeriesLabelPosition::{LowerRight, MiddleRight, UpperRight};
        let marks: Vec<_> = curves.iter().flat_map(|curve| &curve.points).map(|point| self.hold(*point)).collect();
        let share = |at: f64, axis: &Range<f64>| (at - axis.start) / (axis.end - axis.start);
        let hidden = |heights: Range<f64>| {
            let is_hidden = |(x, y): &&(f64, f64)| share(*x, &self.x) > 0.35 && heights.contains(&share(*y, &self.y));
            marks.iter().filter(is_hidden).count()
        };
        let places =
            [(LowerRight, hidden(-0.1..0.3)), (UpperRight, hidden(0.7..1.1)), (MiddleRight, hidden(0.35..0.65))];
        places.into_iter().min_by_key(|(_, hidden)| *hidden).map_or(LowerRight, |(place, _)| place)
    }

    /// A curve's name, with the place of its mark if that is outside the axes.
    fn label(&self, curve: &Curve) -> String {
        match curve.points[..] {
            [point] if self.hold(point) != point => {
                format!("{} (off the chart: {:.0}% more calls, {:.0}% avoided)", curve.name, point.0, point.1)
            }
            _ => curve.name.clone(),
        }
    }
}

/// The least range of the x axis, so that noise does not look like a finding.
const LEAST_REACH: f64 = 10.0;

/// Colours that are distinct for colour-blind readers; the shapes differ as well.
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(60, 60, 60), RGBColor(213, 94, 0), RGBColor(0, 135, 95)];

/// The outlines of marks, in pixels: disc, square, diamond, triangle.
const SHAPES: [&[(i32, i32)]; 4] = [
    &[(5, 0), (4, 3), (3, 4), (0, 5), (-3, 4), (-4, 3), (-5, 0), (-4, -3), (-3, -4), (0, -5), (3, -4), (4, -3)],
    &[(-5, -5), (5, -5), (5, 5), (-5, 5)],
    &[(0, -7), (7, 0), (0, 7), (-7, 0)],
    &[(0, -7), (7, 6), (-7, 6)],
];

type Drawing = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(curves: &[Curve], frame: &Frame, title: &str, text: &mut String) -> Drawing {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(printable(title, 96), ("sans-serif", 19))
        .margin(14)
        .x_label_area_size(46)
        .y_label_area_size(58)
        .build_cartesian_2d(frame.x.clone(), frame.y.clone())?;
    chart
        .configure_mesh()
        .x_desc("calls beyond the least")
        .y_desc("avoidable delays avoided")
        .x_label_formatter(&|percent| format!("{percent:.0}%"))
        .y_label_formatter(&|percent| format!("{percent:.0}%"))
        .label_style(("sans-serif", 16))
        .axis_desc_style(("sans-serif", 17))
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(222, 222, 222))
        .axis_style(RGBColor(90, 90, 90))
        .draw()?;
    for (place, curve) in curves.iter().enumerate() {
        let style = COLOURS[place % COLOURS.len()];
        let shape = SHAPES[place % SHAPES.len()];
        let points: Vec<_> = curve.points.iter().map(|point| frame.hold(*point)).collect();
        if curve.is_line() {
            chart.draw_series(LineSeries::new(points.iter().copied(), style.stroke_width(2)))?;
        }
        let mark = move |at| EmptyElement::at(at) + Polygon::new(shape.to_vec(), style);
        chart
            .draw_series(points.iter().map(|at| mark(*at)))?
            .label(printable(&frame.label(curve), 72))
            .legend(move |(x, y)| EmptyElement::at((x + 10, y)) + Polygon::new(shape.to_vec(), style));
    }
    chart
        .configure_series_labels()
        .position(frame.legend(curves))
        .label_font(("sans-serif", 16))
        .background_style(WHITE)
        .border_style(RGBColor(160, 160, 160))
        .draw()?;
    root.present()
}

/// A text, such as a file's name, cut to `room` characters and to those that XML permits.
fn printable(text: &str, room: usize) -> String {
    let is_text = |c: char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
    let mut shown: String = text.chars().map(|c| if is_text(c) { c } else { '\u{fffd}' }).take(room).collect();
    if text.chars().nth(room).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &str, points: &[(f64, f64)]) -> Curve {
        let points = points.iter().map(|(extra, avoided)| (extra * 100.0, avoided * 100.0));
        Curve { name: name.to_owned(), points: points.collect() }
    }

    fn curves(used: (f64, f64)) -> [Curve; 4] {
        [
            curve("learned", &[(0.02, 0.1), (0.15, 0.4), (1.0, 0.8)]),
            curve("off", &[(0.0, 0.0)]),
            curve("used", &[used]),
            curve("clairvoyant", &[(0.03, 0.97)]),
        ]
    }

    #[test]
    fn legend_names_every_curve_and_axes_have_titles() {
        let svg = svg(&curves((0.9, 0.8)), "office, 1,000 users").expect("a picture");
        assert!(svg.starts_with("<svg width=\"800\" height=\"500\"") && svg.ends_with("</svg>\n"), "{svg}");
        for text in ["learned", "off", "used", "clairvoyant", "office, 1,000 users", "calls beyond the least"] {
            assert_eq!(svg.matches(&format!("\n{text}\n")).count(), 1, "{text}: {svg}");
        }
        assert!(svg.contains("avoidable delays avoided") && svg.contains("\n100%\n"), "{svg}");
    }

    #[test]
    fn same_curves_give_the_same_svg() {
        assert_eq!(svg(&curves((0.9, 0.8)), "t"), svg(&curves((0.9, 0.8)), "t"));
    }

    #[test]
    fn distant_mark_is_drawn_at_the_edge_and_labelled() {
        let near = svg(&curves((1.9, 0.8)), "t").expect("a picture");
        assert!(!near.contains("off the chart"), "{near}");
        let far = svg(&curves((3.5, 0.8)), "t").expect("a picture");
        assert!(far.contains("used (off the chart: 350% more calls, 80% avoided)"), "{far}");
        let worse = svg(&curves((0.5, -4.0)), "t").expect("a picture");
        assert!(worse.contains("used (off the chart: 50% more calls, -400% avoided)"), "{worse}");
    }

    #[test]
    fn marks_without_lines_are_all_inside_the_axes() {
        let svg = svg(&curves((30.0, 0.8))[1..], "t").expect("a picture");
        assert!(!svg.contains("off the chart"), "{svg}");
    }

    #[test]
    fn no_curves_give_an_empty_plot() {
        assert!(svg(&[], "t").is_ok_and(|svg| svg.contains("calls beyond the least")));
        assert!(svg(&[curve("empty", &[])], "t").is_ok());
    }

    #[test]
    fn point_without_finite_shares_is_rejected() {
        for point in [(f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            let error = svg(&[curve("learned", &[point])], "t").expect_err("no number").to_string();
            assert_eq!(error, "cannot draw the plot: a point's shares are not finite numbers");
        }
    }

    #[test]
    fn title_is_escaped_and_cut() {
        let svg = svg(&[], &format!("<b>&\"\u{1b}[0m\u{0}{}", "x".repeat(200))).expect("a picture");
        assert!(svg.contains("&lt;b&gt;&amp;&quot;\u{fffd}[0m\u{fffd}xxx") && svg.contains("x…\n"), "{svg}");
        assert!(!svg.contains(['\u{1b}', '\u{0}']), "{svg}");
    }
}
