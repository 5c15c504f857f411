//! A Chromium that chromedriver starts, and what a test does with a page in it.

use crate::run::{write_page, Served};
use anyhow::{bail, ensure, Context, Result};
use fantoccini::actions::{InputSource, KeyAction, KeyActions, MouseActions, PointerAction};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{json, Value};
use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a page may take to come to what a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A page of `gradlog report` in a browser.
pub struct Page {
    client: Client,
    address: String,
    downloads: PathBuf,
}

/// What a test does with a page.
type Doing<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// The driver; it ends with the test.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts chromedriver on a free port. `None` if it is not installed.
fn start_driver() -> Option<(Driver, u16)> {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).ok()?.port();
    let child = Command::new("chromedriver")
        .arg(format!("--port={port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    Some((Driver(child), port))
}

/// Opens the page of a made-up run in a window of this size. Without a driver it says so and does nothing.
pub fn in_browser(size: (u32, u32), doing: impl for<'a> FnOnce(&'a Page) -> Doing<'a>) {
    open_in_browser(size, |folder| Ok((format!("file://{}", write_page(folder)?.display()), ())), doing);
}

/// Opens the page of a server in a window of this size.
pub fn served_in_browser(
    size: (u32, u32),
    serving: impl FnOnce(&Path) -> Result<Served>,
    doing: impl for<'a> FnOnce(&'a Page) -> Doing<'a>,
) {
    open_in_browser(size, |folder| serving(folder).map(|served| (served.address.clone(), served)), doing);
}

/// Opens an address, whose page is there as long as what comes with it.
fn open_in_browser<T>(
    size: (u32, u32),
    opening: impl FnOnce(&Path) -> Result<(String, T)>,
    doing: impl for<'a> FnOnce(&'a Page) -> Doing<'a>,
) {
    let Some((driver, port)) = start_driver() else {
        println!("skipped: there is no chromedriver (Debian: apt-get install chromium-driver)");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = runtime.block_on(async {
        let folder = tempfile::tempdir()?;
        let (address, _alive) = opening(folder.path())?;
        let client = connect(port, size, folder.path().to_str().context("a path in UTF-8")?).await?;
        let page = Page { client, address, downloads: folder.path().to_owned() };
        let outcome = page.open(doing).await;
        let _ = page.client.clone().close().await;
        outcome
    });
    drop(driver);
    if let Err(error) = done {
        panic!("{error:?}");
    }
}

async fn connect(port: u16, (width, height): (u32, u32), downloads: &str) -> Result<Client> {
    // A window cannot be as narrow as a telephone, so that the size is that of an emulated device.
    let metrics = json!({ "width": width, "height": height, "pixelRatio": 1.0, "mobile": false, "touch": false });
    let options = json!({
        "mobileEmulation": { "deviceMetrics": metrics },
        "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        "prefs": { "download.default_directory": downloads, "download.prompt_for_download": false },
    });
    let mut capabilities = serde_json::Map::new();
    capabilities.insert("goog:chromeOptions".into(), options);
    // A dialog that a test did not ask for stays open, so that it is found.
    capabilities.insert("unhandledPromptBehavior".into(), json!("ignore"));
    let start = Instant::now();
    loop {
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities.clone());
        match builder.connect(&format!("http://127.0.0.1:{port}")).await {
            Ok(client) => return Ok(client),
            // The driver may still be starting.
            Err(_) if start.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => bail!("chromedriver starts no browser: {error}"),
        }
    }
}

impl Page {
    async fn open(&self, doing: impl for<'a> FnOnce(&'a Page) -> Doing<'a>) -> Result<()> {
        self.client.goto(&self.address).await?;
        self.wait_ready().await?;
        doing(self).await
    }

    async fn wait_ready(&self) -> Result<()> {
        self.wait_for("the page is drawn", "document.body.dataset.ready !== undefined").await
    }

    /// Goes to a view and waits until it is drawn.
    pub async fn go(&self, view: &str) -> Result<()> {
        self.run(&format!("delete document.body.dataset.ready; location.hash = ''; location.hash = '#/{view}'"))
            .await?;
        self.wait_for(view, &format!("document.getElementById('main').dataset.view === '{view}'")).await?;
        self.wait_ready().await
    }

    /// A picture of the page as it is, if `GRADLOG_SCREENSHOTS` names a folder.
    pub async fn picture(&self, name: &str) -> Result<()> {
        if let Some(folder) = std::env::var_os("GRADLOG_SCREENSHOTS") {
            std::fs::write(Path::new(&folder).join(format!("{name}.png")), self.client.screenshot().await?)?;
        }
        Ok(())
    }

    pub async fn reload(&self) -> Result<()> {
        self.client.refresh().await?;
        self.wait_ready().await
    }

    pub async fn back(&self) -> Result<()> {
        Ok(self.client.back().await?)
    }

    /// Runs a statement in the page.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.client.execute(script, Vec::new()).await.with_context(|| format!("running `{script}`"))
    }

    async fn value(&self, expression: &str) -> Result<Value> {
        self.run(&format!("return {expression}")).await
    }

    pub async fn text(&self, expression: &str) -> Result<String> {
        let value = self.value(expression).await?;
        Ok(value.as_str().with_context(|| format!("`{expression}` is {value}"))?.to_owned())
    }

    pub async fn texts(&self, expression: &str) -> Result<Vec<String>> {
        Ok(serde_json::from_value(self.value(expression).await?)?)
    }

    pub async fn number(&self, expression: &str) -> Result<f64> {
        self.value(expression).await?.as_f64().with_context(|| format!("`{expression}` is no number"))
    }

    /// Waits until an expression is true.
    pub async fn wait_for(&self, what: &str, expression: &str) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.value(&format!("Boolean({expression})")).await? == json!(true) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        bail!("waited in vain for {what}: `{expression}`")
    }

    /// Waits until an element holds some words; returns its text.
    pub async fn wait_text(&self, selector: &str, words: &str) -> Result<String> {
        let text = format!("document.querySelector({})?.textContent", json!(selector));
        self.wait_for(words, &format!("{text}?.includes({})", json!(words))).await?;
        self.text(&text).await
    }

    /// Types keys to whatever has the focus. Codes are those of WebDriver; `\u{e000}` lets go of all.
    pub async fn keys(&self, keys: &str) -> Result<()> {
        let mut actions = KeyActions::new("keyboard".into());
        let mut held = Vec::new();
        for value in keys.chars() {
            match value {
                '\u{e008}' => {
                    held.push(value);
                    actions = actions.then(KeyAction::Down { value });
                }
                '\u{e000}' => {
                    for value in held.drain(..) {
                        actions = actions.then(KeyAction::Up { value });
                    }
                }
                value => actions = actions.then(KeyAction::Down { value }).then(KeyAction::Up { value }),
            }
        }
        Ok(self.client.perform_actions(actions).await?)
    }

    /// Drags from one place of an element to another, both as shares of its size.
    pub async fn drag(&self, selector: &str, from: (f64, f64), to: (f64, f64)) -> Result<()> {
        self.client.find(Locator::Css(selector)).await?;
        self.run(&format!("document.querySelector({}).scrollIntoView({{ block: 'center' }})", json!(selector))).await?;
        let frame = self
            .value(&format!("document.querySelector({}).getBoundingClientRect().toJSON()", json!(selector)))
            .await?;
        let at = |(across, down): (f64, f64)| -> Option<(f64, f64)> {
            let side = |name: &str| frame[name].as_f64();
            Some(((side("left")? + across * side("width")?).round(), (side("top")? + down * side("height")?).round()))
        };
        let (from, to) = (at(from).context("a frame")?, at(to).context("a frame")?);
        let go = |(x, y): (f64, f64)| PointerAction::MoveTo { duration: Some(Duration::from_millis(50)), x, y };
        let button = fantoccini::actions::MOUSE_BUTTON_LEFT;
        let actions = MouseActions::new("mouse".into())
            .then(go(from))
            .then(PointerAction::Down { button })
            .then(go(to))
            .then(PointerAction::Up { button });
        Ok(self.client.perform_actions(actions).await?)
    }

    /// Presses the button that saves the verdicts; returns what is in the file.
    pub async fn download(&self) -> Result<String> {
        let file = self.downloads.join("verdicts.csv");
        ensure!(!file.exists(), "there is a file of verdicts already");
        self.run("document.getElementById('download').click()").await?;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Ok(text) = std::fs::read_to_string(&file) {
                if !text.is_empty() {
                    return Ok(text);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("no file of verdicts was saved")
    }

    /// The text of a dialog that a script opened.
    pub async fn alert_text(&self) -> Option<String> {
        self.client.get_alert_text().await.ok()
    }
}
