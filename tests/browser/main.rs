//! The page of `gradlog report` in a real Chromium: brush the map, judge by key, download, sort, go back; with names
//! that would break out of HTML, without a mouse, on a narrow and on a wide screen. `served` is that of
//! `gradlog serve`.
//!
//! Needs `chromedriver` and Chromium (Debian: `chromium-driver`). Without them each test says so and does nothing.

mod browser;
mod run;
mod served;

use anyhow::{ensure, Context, Result};
use browser::{in_browser, Page};
use serde_json::json;

const NARROW: (u32, u32) = (400, 900);
const WIDE: (u32, u32) = (1600, 1000);

/// Ids of the suspects that are listed.
async fn suspects(page: &Page) -> Result<Vec<String>> {
    page.texts("[...document.querySelectorAll('.suspect')].map((row) => row.dataset.id)").await
}

#[test]
fn nothing_of_a_run_becomes_markup_or_script() {
    in_browser(WIDE, |page| {
        Box::pin(async move {
            for view in ["overview", "suspects", "probes", "map", "groups", "scores"] {
                page.go(view).await?;
                let strays =
                    page.number("document.querySelectorAll('img, iframe, object, main script, .evil').length").await?;
                ensure!(strays == 0.0, "{view}: {strays} elements that no panel makes");
            }
            page.go("probes").await?;
            let text = page.text("document.getElementById('main').textContent").await?;
            ensure!(text.contains("</script><script>alert(1)</script>"), "the name of the set is not shown: {text}");
            page.go("overview").await?;
            let text = page.text("document.getElementById('main').textContent").await?;
            ensure!(text.contains("<img class=\"evil\" src=x onerror=alert(1)>"), "the note is not shown");
            ensure!(!text.contains('\u{1b}'), "a control character is shown as it is");
            ensure!(page.alert_text().await.is_none(), "a script of the run was executed");
            Ok(())
        })
    });
}

#[test]
fn what_the_guard_noticed_is_on_the_first_view_and_opens_the_example() {
    in_browser(WIDE, |page| {
        Box::pin(async move {
            page.go("overview").await?;
            let rows = "[...document.querySelectorAll('.events tbody tr')].map((row) => [...row.cells].map((cell) => \
                        cell.textContent).join('|'))";
            let rows = page.texts(rows).await?;
            let large = "the gradient of example 107 is 31 times the 99th percentile of recent norms";
            ensure!(rows.len() == 2 && rows[0].starts_with("3|0|107|conv</script>|"), "{rows:?}");
            ensure!(rows[0].contains(large) && rows[1].contains("the gradient of example 121 is NaN"), "{rows:?}");
            let counts = page.text("document.querySelector('.event-counts').textContent").await?;
            ensure!(counts == "gradients that are NaN or infinite: 1 · large gradients: 1", "{counts}");
            page.run("document.querySelectorAll('.events button')[1].click()").await?;
            page.wait_for("the example", "document.querySelector('#example h2')?.textContent === 'Example 121'").await
        })
    });
}

#[test]
fn probes_show_the_pictures_that_the_run_holds() {
    in_browser(WIDE, |page| {
        Box::pin(async move {
            page.go("probes").await?;
            let pixels = "[...document.querySelectorAll('canvas.picture')].map((one) => [one.width, one.height, \
                          ...[2, 6].map((y) => one.getContext('2d').getImageData(3, y, 1, 1).data[0])].join())";
            let all = format!("{pixels}.every((seen) => seen === '8,8,0,255') && {pixels}.length >= 2");
            page.wait_for("stripes, black above white", &all).await
        })
    });
}

#[test]
fn the_map_lists_what_a_rectangle_holds() {
    in_browser(WIDE, |page| {
        Box::pin(async move {
            page.go("map").await?;
            page.drag(".map-stage", (0.1, 0.05), (0.97, 0.9)).await?;
            let all = page.wait_text(".map-list .note", "example").await?;
            ensure!(all.starts_with("30 example"), "a rectangle over the whole map holds all examples: {all}");
            page.drag(".map-stage", (0.12, 0.5), (0.5, 0.9)).await?;
            let some =
                page.wait_for("a shorter list", "document.querySelectorAll('.map-list .tile').length < 30").await;
            some.context("a smaller rectangle lists fewer")?;
            page.run("document.querySelector('.map-list .tile').click()").await?;
            page.wait_for("the example", "!document.getElementById('example').hidden").await?;
            page.back().await?;
            page.wait_for("no example", "document.getElementById('example').hidden").await
        })
    });
}

#[test]
fn the_map_can_be_brushed_by_keys() {
    in_browser(WIDE, |page| {
        Box::pin(async move {
            page.go("map").await?;
            page.run("document.querySelector('.brush').focus()").await?;
            let words = "document.querySelector('.map-list .note').textContent";
            let before = page.text(words).await?;
            for _ in 0..6 {
                page.keys("\u{e008}\u{e013}\u{e014}\u{e000}").await?; // shift with up and right, then released
            }
            let after = page.text(words).await?;
            ensure!(before != after, "the rectangle did not grow: {after}");
            page.keys("\u{e013}").await?;
            page.wait_for("the rectangle moves", &format!("{words} !== {}", json!(after))).await
        })
    });
}

#[test]
fn any_label_can_be_given_and_an_example_that_is_not_there_cannot_be_judged() {
    in_browser(WIDE, |page| {
        Box::pin(async move {
            page.go("suspects").await?;
            page.wait_for("the first example", "document.querySelector('#example .other-label') !== null").await?;
            let id = page.text("location.hash.match(/example=(\\d+)/)[1]").await?;
            page.run("document.querySelector('#example .other-label').focus()").await?;
            page.keys("6\u{e007}").await?;
            page.wait_for("a verdict", "document.querySelector('.verdict-count').textContent === '1 relabel'").await?;
            let csv = page.download().await?;
            let fields: Vec<&str> = csv.lines().nth(1).unwrap_or_default().split(',').collect();
            ensure!(fields[0] == id && fields[2..] == ["6", "relabel"], "{csv}");
            page.run("location.hash = '#/suspects?example=18446744073709551615'").await?;
            page.wait_for("the words", "document.querySelector('#example h2').textContent.endsWith('1615')").await?;
            let judged =
                page.number("document.querySelectorAll('#example .verdicts, #example .other-label').length").await?;
            ensure!(judged == 0.0, "an example that is not there can be judged");
            page.run("document.activeElement.blur()").await?;
            page.keys("d").await?;
            let said = page.text("document.querySelector('.verdict-count').textContent").await?;
            ensure!(said == "1 relabel", "{said}");
            Ok(())
        })
    });
}

#[test]
fn suspects_are_judged_by_keys_and_leave_as_a_file() {
    in_browser(WIDE, |page| {
        Box::pin(async move {
            page.go("suspects").await?;
            let ids = suspects(page).await?;
            ensure!(ids.len() == 30, "{} suspects", ids.len());
            page.run("document.querySelector('.suspect').focus()").await?;
            page.keys("k").await?;
            // Down to the next one that has a proposed label.
            let mut at = 0;
            let has_proposal = "document.activeElement.querySelector('.chip.other') !== null";
            while at == 0 || page.number(&format!("Number({has_proposal})")).await? == 0.0 {
                page.keys("\u{e015}").await?;
                at += 1;
                ensure!(at < 20, "no suspect has a proposed label");
            }
            page.keys("r").await?;
            page.keys("\u{e015}d").await?;
            page.keys("\u{e015}d").await?;
            page.keys("u").await?;
            let said = page.text("document.querySelector('.verdict-count').textContent").await?;
            ensure!(said == "1 keep · 1 relabel · 1 drop", "{said}");
            let csv = page.download().await?;
            let lines: Vec<&str> = csv.lines().collect();
            ensure!(lines[0] == "id,label,proposed,verdict", "{csv}");
            ensure!(lines.len() == 4, "{csv}");
            ensure!(lines[1].starts_with(&format!("{},", ids[0])) && lines[1].ends_with(",,keep"), "{csv}");
            let relabeled: Vec<&str> = lines[2].split(',').collect();
            ensure!(relabeled[0] == ids[at] && relabeled[3] == "relabel", "{csv}");
            ensure!(relabeled[1] != relabeled[2] && relabeled[2].parse::<u32>().is_ok(), "{csv}");
            ensure!(lines[3].starts_with(&format!("{},", ids[at + 1])) && lines[3].ends_with(",,drop"), "{csv}");
            // They are there when the page is opened again.
            page.reload().await?;
            page.go("suspects").await?;
            let pressed = "[...document.querySelectorAll('.verdict[aria-pressed=true]')].length";
            page.wait_for("the verdicts", &format!("{pressed} === 3")).await
        })
    });
}

#[test]
fn an_example_opens_closes_and_is_gone_back_from() {
    in_browser(WIDE, |page| {
        Box::pin(async move {
            page.go("suspects").await?;
            page.run("document.querySelector('.suspect').focus()").await?;
            page.keys("\u{e007}").await?; // enter
            page.wait_for("the example", "!document.getElementById('example').hidden").await?;
            let ids = suspects(page).await?;
            let title = "document.querySelector('#example h2').textContent";
            page.wait_for("its title", &format!("{title} === 'Example {}'", ids[0])).await?;
            // The arrows take the example with them, and Escape closes it.
            page.keys("\u{e015}").await?;
            page.wait_for("the next one", &format!("{title} === 'Example {}'", ids[1])).await?;
            page.keys("\u{e00c}").await?;
            page.wait_for("no example", "document.getElementById('example').hidden").await?;
            page.keys("3").await?;
            page.wait_for("the probes", "document.querySelector('[aria-current]').dataset.view === 'probes'").await?;
            page.back().await?;
            page.wait_for("the suspects", "document.querySelector('[aria-current]').dataset.view === 'suspects'").await
        })
    });
}

#[test]
fn the_matrix_and_the_filter_narrow_the_list() {
    in_browser(WIDE, |page| {
        Box::pin(async move {
            page.go("suspects").await?;
            page.run("document.querySelector('.confusion td button').click()").await?;
            page.wait_for("fewer rows", "document.querySelectorAll('.suspect').length < 30").await?;
            page.run("document.querySelector('.suspects-filter .plain').click()").await?;
            page.wait_for("all rows", "document.querySelectorAll('.suspect').length === 30").await?;
            let id = suspects(page).await?.pop().context("a suspect")?;
            page.keys("/").await?;
            page.keys(&id).await?;
            page.wait_for("one row", "document.querySelectorAll('.suspect').length === 1").await
        })
    });
}

#[test]
fn arrows_go_through_the_matrix_and_the_address_keeps_what_is_chosen() {
    in_browser(WIDE, |page| {
        Box::pin(async move {
            page.go("suspects").await?;
            let stops = "document.querySelectorAll('.confusion button[tabindex=\"0\"]').length";
            ensure!(page.number(stops).await? == 1.0, "the matrix is no single stop of the Tab key");
            page.run("document.querySelector('.confusion td button').focus()").await?;
            let cell = "document.activeElement.dataset.cell";
            let first = page.text(cell).await?;
            // Up to the column's own button, which chooses by the proposed label alone.
            while page.text(cell).await?.split('>').next() != Some("null") {
                let before = page.text(cell).await?;
                page.keys("\u{e013}").await?;
                ensure!(page.text(cell).await? != before, "no way up from {before}, begun at {first}");
            }
            ensure!(page.number(stops).await? == 1.0, "the arrows made more stops");
            page.keys("\u{e007}").await?;
            page.wait_for("fewer rows", "document.querySelectorAll('.suspect').length < 30").await?;
            let proposed = page.text(cell).await?.replace("null>", "");
            let chips = "[...document.querySelectorAll('.suspect .chip.other')].map((chip) => chip.textContent)";
            let some = page.texts(chips).await?;
            ensure!(!some.is_empty() && some.iter().all(|label| *label == proposed), "{some:?}, not all {proposed}");
            page.run(
                "document.querySelector('[aria-label=order]').selectedIndex = 3; \
                      document.querySelector('[aria-label=order]').dispatchEvent(new Event('change'))",
            )
            .await?;
            let address =
                format!("location.hash.includes('proposed={proposed}') && location.hash.includes('order=id')");
            page.wait_for("the address", &address).await?;
            let before = suspects(page).await?;
            ensure!(before.len() == some.len(), "{before:?}");
            page.reload().await?;
            page.wait_for("the list", "document.querySelectorAll('.suspect').length > 0").await?;
            ensure!(suspects(page).await? == before, "the address did not bring the list back");
            Ok(())
        })
    });
}

#[test]
fn probes_and_their_lists_are_single_stops_of_the_tab_key() {
    in_browser(WIDE, |page| {
        Box::pin(async move {
            page.go("probes").await?;
            page.wait_for("the lists", "document.querySelectorAll('.end').length > 0").await?;
            let stops = "[...document.querySelectorAll('.wall, .end-rows')].map((list) => \
                         String(list.querySelectorAll('.tile[tabindex=\"0\"], .end[tabindex=\"0\"]').length))";
            let lists = page.texts(stops).await?;
            ensure!(lists.len() >= 3 && lists.iter().all(|stops| stops == "1"), "{lists:?}");
            page.run("document.querySelector('.end-rows .end').focus()").await?;
            page.keys("\u{e015}\u{e015}").await?;
            let place = "[...document.querySelector('.end-rows').children].indexOf(document.activeElement)";
            ensure!(page.number(place).await? == 2.0, "arrows do not go through the proponents");
            ensure!(page.texts(stops).await? == lists, "the arrows made more stops");
            page.run("document.querySelector('.wall .tile').focus()").await?;
            page.keys("\u{e014}").await?;
            let tile = "[...document.querySelectorAll('.wall .tile')].indexOf(document.activeElement)";
            ensure!(page.number(tile).await? == 1.0, "arrows do not go along the wall");
            Ok(())
        })
    });
}

#[test]
fn a_probe_shows_who_helped_and_the_table_is_sorted() {
    in_browser(WIDE, |page| {
        Box::pin(async move {
            page.go("probes").await?;
            page.wait_for("the lists", "document.querySelectorAll('.end').length > 0").await?;
            let first = page.text("document.querySelector('.ends .score').textContent").await?;
            ensure!(first.starts_with('+'), "the first proponent has a positive score: {first}");
            ensure!(first.contains('±'), "and an error: {first}");
            page.run("[...document.querySelectorAll('.probe-detail .tools button')][2].click()").await?;
            page.wait_for("parts by layer", "document.querySelectorAll('.parts').length > 0").await?;
            page.go("scores").await?;
            let column =
                "[...document.querySelectorAll('.score-table tbody tr')].map((row) => row.cells[0].textContent)";
            page.run("document.querySelector('.sort').click()").await?; // example
            page.wait_for("a sorted table", "document.querySelector('th').getAttribute('aria-sort') === 'descending'")
                .await?;
            let down = page.texts(column).await?;
            page.run("document.querySelector('.sort').click()").await?;
            page.wait_for("the other order", "document.querySelector('th').getAttribute('aria-sort') === 'ascending'")
                .await?;
            let mut up = page.texts(column).await?;
            up.reverse();
            ensure!(down == up && down.len() == 30, "{down:?} against {up:?}");
            page.run("document.querySelector('.bin').dispatchEvent(new MouseEvent('click'))").await?;
            page.wait_for("rows of a bin", "document.querySelectorAll('.score-table tbody tr').length < 30").await
        })
    });
}

#[test]
fn no_view_is_wider_than_its_screen_and_everything_has_a_name() {
    for size in [NARROW, WIDE] {
        in_browser(size, |page| {
            Box::pin(async move {
                for view in ["overview", "suspects", "probes", "map", "groups", "scores"] {
                    page.go(view).await?;
                    let over = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
                    let over = page.number(over).await?;
                    ensure!(over <= 0.0, "{view} is {over} pixels wider than the screen");
                    let nameless = "[...document.querySelectorAll('button, a, select, input, canvas[role=img], svg[role=img]')]\
                        .filter((one) => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length))\
                        .map((one) => one.outerHTML.slice(0, 120))";
                    let nameless = page.texts(nameless).await?;
                    ensure!(nameless.is_empty(), "{view}: without a name: {nameless:?}");
                }
                Ok(())
            })
        });
    }
}
