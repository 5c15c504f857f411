//! How the lines lie on a screen, from 80 columns up; on a smaller one the first of them.

use super::session::Session;
use super::words::{overview, suspects, State};
use crate::report::printable;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};
use ratatui::Frame;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns of the names.
const NAMES: usize = 12;
/// Suspects on a screen that is high enough.
const SUSPECTS: usize = 8;
/// Lines of the loss curve, at least and at most.
const CURVE: std::ops::RangeInclusive<u16> = 2..=8;

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, session: &Session<'_>) {
    let area = frame.area();
    let mut lines: Vec<Line<'_>> =
        overview(session).into_iter().map(|(name, value)| pair_line(name, &value, area.width as usize)).collect();
    let body = area.height.saturating_sub(2);
    let room = usize::from(body).saturating_sub(lines.len());
    // The curve first needs its least height and a title.
    let least = usize::from(*CURVE.start()) + 1;
    let listed = room.saturating_sub(least).min(SUSPECTS);
    lines.extend(suspects(session, listed).iter().map(|line| pair_line("", line, area.width as usize)));
    let shown = lines.len().min(usize::from(body)) as u16;
    let left = body - shown;
    let curve = if left > *CURVE.start() { (left - 1).min(*CURVE.end()) } else { 0 };
    let title = u16::from(curve > 0);
    let parts = [1, shown, title, curve].map(Constraint::Length).into_iter();
    let layout = Layout::vertical(parts.chain([Constraint::Min(0), Constraint::Length(1)]));
    let [head, middle, curve_title, curve_area, _, foot] = layout.areas(area);
    frame.render_widget(Paragraph::new(head_line(session, head.width as usize)), head);
    frame.render_widget(Paragraph::new(lines), middle);
    if curve > 0 {
        draw_curve(frame, session, curve_title, curve_area);
    }
    let quits = "q or Ctrl-C ends";
    frame.render_widget(Paragraph::new(cut(quits, foot.width as usize)).style(dim()), foot);
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn color(state: &State) -> Color {
    match state {
        State::Recording { .. } | State::Finished | State::Held => Color::Green,
        State::Reading => Color::Blue,
        State::Silent { .. } | State::Ended => Color::Yellow,
        State::Damaged { .. } | State::Unreadable(_) => Color::Red,
    }
}

/// The state and the end of the run's path, which tells more than its beginning.
fn head_line(session: &Session<'_>, width: usize) -> Line<'static> {
    let state = session.state();
    let word = format!(" {} ", state.word());
    let path = printable(&session.run().dir().display().to_string());
    let room = width.saturating_sub(word.width() + 1);
    let style = Style::new().fg(Color::Black).bg(color(&state)).add_modifier(Modifier::BOLD);
    let path = Span::styled(cut_start(&path, room), Style::new().add_modifier(Modifier::BOLD));
    Line::from(vec![Span::styled(cut(&word, width), style), Span::raw(" "), path])
}

fn pair_line(name: &str, value: &str, width: usize) -> Line<'static> {
    let name = Span::styled(format!("{name:<NAMES$}"), dim());
    Line::from(vec![name, Span::raw(cut(&printable(value), width.saturating_sub(NAMES)))])
}

/// The beginning of a text that fits `width` columns of a terminal.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = fitting(text.chars(), width.saturating_sub(1));
    cut.extend((width > 0).then_some('…'));
    cut
}

/// The end of a text that fits.
fn cut_start(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let end = fitting(text.chars().rev(), width.saturating_sub(1));
    (width > 0).then_some('…').into_iter().chain(end.chars().rev()).collect()
}

fn fitting(text: impl Iterator<Item = char>, width: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= width
    };
    text.take_while(fits).collect()
}

fn draw_curve(frame: &mut Frame<'_>, session: &Session<'_>, title: Rect, area: Rect) {
    let losses = session.figures.curve.losses(area.width as usize);
    let most = losses.iter().flatten().fold(0.0, |most: f64, loss| most.max(*loss));
    if most <= 0.0 {
        return;
    }
    let last = session.figures.last_step.unwrap_or_default();
    let most_words = gradlog_analysis::significant(most);
    let words = format!("mean loss, steps 0 to {last}; the highest bar is {most_words}");
    frame.render_widget(Paragraph::new(cut(&words, title.width as usize)).style(dim()), title);
    // A bar of 0 is invisible, so no mean is rounded to it.
    let bars = losses.iter().map(|loss| loss.map(|loss| (1000.0 * loss.max(0.0) / most).ceil() as u64));
    frame.render_widget(Sparkline::default().data(bars.collect::<Vec<_>>()).max(1000), area);
}
