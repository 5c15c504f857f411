//! The page of `gradlog serve`: any probe and any method, pages of the table, a run that grows while one looks.

use crate::browser::{served_in_browser, Page};
use crate::run::{many, serve, serve_evil};
use anyhow::{ensure, Context, Result};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic};
use serde_json::json;

const NARROW: (u32, u32) = (400, 900);
const WIDE: (u32, u32) = (1600, 1000);

const SCORES: &str = "[...document.querySelectorAll('.ends .score')].map((one) => one.textContent)";
const ROWS: &str = "[...document.querySelectorAll('.score-table tbody tr')].map((row) => row.dataset.id)";

/// Waits until no part of a view is being computed.
async fn settled(page: &Page) -> Result<()> {
    page.wait_for("all answers", "document.querySelectorAll('[aria-busy]').length === 0").await
}

#[test]
fn another_probe_and_another_method_are_asked_for() {
    for size in [NARROW, WIDE] {
        served_in_browser(size, serve_evil, |page| {
            Box::pin(async move {
                page.go("probes").await?;
                page.wait_for("the lists", "document.querySelectorAll('.end').length > 0").await?;
                settled(page).await?;
                let first = page.texts(SCORES).await?;
                ensure!(first[0].starts_with('+') && first[0].contains('\u{b1}'), "{first:?}");
                page.picture(&format!("served-probes-{}", size.0)).await?;
                // Another probe, of all, not of the wrong ones alone.
                page.run("document.querySelector('.probe-wall input[type=checkbox]')?.click()").await?;
                page.wait_for("all probes", "document.querySelectorAll('.wall .tile').length === 6").await?;
                let other = "[...document.querySelectorAll('.wall .tile')].find((tile) => tile.getAttribute('aria-pressed') === 'false')";
                page.run(&format!("{other}.click()")).await?;
                page.wait_for(
                    "other scores",
                    &format!("({SCORES}).join() !== {} && ({SCORES}).length > 0", json!(first.join(","))),
                )
                .await?;
                settled(page).await?;
                let tracin = page.texts(SCORES).await?;
                // By epoch: the parts come from the server.
                page.run("[...document.querySelectorAll('.probe-detail .tools button')].find((one) => one.textContent === 'by epoch').click()").await?;
                page.wait_for("parts by epoch", "document.querySelectorAll('.parts').length > 0").await?;
                page.run("document.querySelector('details.method').open = true").await?;
                let choose = |name: &str, value: &str| {
                    format!(
                    "const field = document.querySelector('[data-option={name}]'); field.value = '{value}'; field.dispatchEvent(new Event('change'))"
                )
                };
                page.run(&choose("method", "if")).await?;
                page.wait_for(
                    "scores of another method",
                    &format!("({SCORES}).length > 0 && ({SCORES}).join() !== {}", json!(tracin.join(","))),
                )
                .await?;
                page.run(&choose("damping", "1")).await?;
                page.wait_text(".probe-detail .basis", "damping 1").await?;
                settled(page).await?;
                page.picture(&format!("served-method-{}", size.0)).await?;
                // What the command refuses is said in its words.
                page.run(&choose("damping", "-1")).await?;
                page.wait_text(".probe-detail .later", "is not a number above 0").await?;
                // The address keeps the question.
                page.run(&choose("damping", "2")).await?;
                page.wait_text(".probe-detail .basis", "damping 2").await?;
                page.reload().await?;
                page.wait_text(".probe-detail .basis", "damping 2").await?;
                // An example, and back.
                page.run("document.querySelector('.end').click()").await?;
                page.wait_for("the example", "!document.getElementById('example').hidden").await?;
                settled(page).await?;
                page.back().await?;
                page.wait_for("no example", "document.getElementById('example').hidden").await
            })
        });
    }
}

#[test]
fn the_table_is_sorted_and_paged_by_the_server() {
    for size in [NARROW, WIDE] {
        let run = many();
        let path = run.path().to_owned();
        served_in_browser(
            size,
            move |_| serve(&path, None),
            |page| {
                Box::pin(async move {
                    page.go("scores").await?;
                    settled(page).await?;
                    let press = |words: &str| format!("document.querySelector('[aria-label=\"{words}\"]').click()");
                    ensure!(page.texts(ROWS).await?.len() == 100);
                    page.wait_text(".pager", "rows 1 to 100 of 250").await?;
                    page.picture(&format!("served-scores-{}", size.0)).await?;
                    page.run("document.querySelector('.sort').click()").await?; // example
                    page.wait_for("the highest ids first", &format!("({ROWS})[0] === '1843'")).await?; // 100 + 7 * 249
                    let mut all = page.texts(ROWS).await?;
                    for (words, count) in [("rows 101 to 200", 100), ("rows 201 to 250", 50)] {
                        page.run(&press("next page")).await?;
                        page.wait_text(".pager", words).await?;
                        let rows = page.texts(ROWS).await?;
                        ensure!(rows.len() == count, "{}", rows.len());
                        all.extend(rows);
                    }
                    let expected: Vec<String> = (0..250).rev().map(|at| (100 + 7 * at).to_string()).collect();
                    ensure!(all == expected, "{all:?}");
                    page.run(&press("first page")).await?;
                    page.wait_text(".pager", "rows 1 to 100").await?;
                    page.run(&press("next page")).await?;
                    page.wait_text(".pager", "rows 101 to 200").await?;
                    let before = page.texts(ROWS).await?;
                    // Another view and back: the same page of the table.
                    page.keys("1").await?;
                    page.wait_for("the overview", "document.getElementById('main').dataset.view === 'overview'")
                        .await?;
                    page.back().await?;
                    page.wait_text(".pager", "rows 101 to 200").await?;
                    ensure!(page.texts(ROWS).await? == before);
                    let bin =
                        "[...document.querySelectorAll('.bin')].find((bin) => Number(bin.getAttribute('height')) > 0)";
                    page.run(&format!("{bin}.dispatchEvent(new MouseEvent('click'))")).await?;
                    page.wait_for("rows of a bin", &format!("({ROWS}).length > 0 && ({ROWS}).length < 100")).await?;
                    // Any example by its id.
                    page.run("document.getElementById('open-example').focus()").await?;
                    page.keys("1843\u{e007}").await?;
                    page.wait_text("#example h2", "Example 1843").await.map(|_| ())
                })
            },
        );
    }
}

#[test]
fn a_run_that_grows_is_followed() {
    let mut all = visits(&mut Draws(1), 30, 4, 8);
    all.iter_mut().for_each(|visit| visit.label = (visit.example % 3) as u32);
    let mut run = Synthetic::new(Encoding::Q8);
    run.visits(&all[..40]);
    let path = run.dir.path().to_owned();
    served_in_browser(
        WIDE,
        move |_| serve(&path, None),
        |page| {
            Box::pin(async move {
                page.wait_text(".head-line", "40 visits").await?;
                page.wait_text("#follow", "recording").await?;
                settled(page).await?;
                page.picture("served-live").await?;
                run.visits(&all[40..80]);
                // The overview follows by itself.
                page.wait_text(".head-line", "80 visits").await?;
                // Another view offers it.
                page.go("scores").await?;
                settled(page).await?;
                let before = page.texts(ROWS).await?;
                run.visits(&all[80..]);
                run.end();
                let written = run.finish();
                page.wait_text("#show-more", "visits").await?;
                ensure!(page.texts(ROWS).await? == before, "the table changed by itself");
                page.run("document.getElementById('show-more').click()").await?;
                page.wait_for("no more to show", "document.getElementById('show-more') === null").await?;
                page.go("overview").await?;
                page.wait_text(".head-line", &format!("{} visits", all.len())).await?;
                drop(written);
                Ok(())
            })
        },
    );
}

#[test]
fn served_views_fit_their_screen_and_hold_no_markup_of_the_run() {
    for size in [NARROW, WIDE] {
        served_in_browser(size, serve_evil, |page| {
            Box::pin(async move {
                for view in ["overview", "suspects", "probes", "map", "groups", "scores"] {
                    page.go(view).await?;
                    settled(page).await.with_context(|| view.to_owned())?;
                    page.picture(&format!("served-all-{view}-{}", size.0)).await?;
                    let over = page
                        .number("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                        .await?;
                    ensure!(over <= 0.0, "{view} is {over} pixels wider than the screen");
                    let strays = page
                        .number("document.querySelectorAll('img, iframe, object, main script, .evil').length")
                        .await?;
                    ensure!(strays == 0.0, "{view}: {strays} elements that no panel makes");
                    let nameless = "[...document.querySelectorAll('button, a, select, input, canvas[role=img], svg[role=img]')]\
                        .filter((one) => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length))\
                        .map((one) => one.outerHTML.slice(0, 120))";
                    let nameless = page.texts(nameless).await?;
                    ensure!(nameless.is_empty(), "{view}: without a name: {nameless:?}");
                }
                ensure!(page.alert_text().await.is_none(), "a script of the run was executed");
                Ok(())
            })
        });
    }
}
