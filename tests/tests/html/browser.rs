//! A browser without a window, driven as a user would: pointer, keys, and what is to be seen.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use fantoccini::{
    Client, ClientBuilder, Locator,
    actions::{InputSource as _, KeyAction, KeyActions, MouseActions, PointerAction},
    elements::Element,
    wd::WebDriverCompatibleCommand,
};
use hyper_util::client::legacy::connect::HttpConnector;
use kleak_tests::harness::{PATIENCE, on_this_machine, require_program};
use serde_json::{Value, json};

/// What the page is shown in.
pub(crate) const WIDTH: u32 = 1280;
/// See [`WIDTH`].
pub(crate) const HEIGHT: u32 = 800;

/// Its driver ends with it.
pub(crate) struct Browser {
    client: Client,
    _driver: Driver,
}

struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Browser {
    /// Starts one, or says loudly that there is none here and returns `None`, as all that tests need.
    pub(crate) async fn start() -> Result<Option<Self>> {
        let (Some(browser), Some(driver)) =
            (require_program("chromium")?, require_program("chromedriver")?)
        else {
            return Ok(None);
        };
        let mut driver = Driver(
            Command::new(driver)
                .arg("--port=0")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?,
        );
        let stdout = driver.0.stdout.take().context("its stdout")?;
        let mut port = None;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if let Some((_, rest)) = line.split_once("started successfully on port ") {
                port = Some(rest.trim_end_matches('.').parse::<u16>()?);
                break;
            }
        }
        let port = port.context("the driver says no port")?;
        let capabilities = json!({
            "goog:chromeOptions": {
                "binary": browser,
                // Root has no sandbox; the pages are ours.
                "args": [
                    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                    "--hide-scrollbars", "--force-device-scale-factor=1",
                    format!("--window-size={WIDTH},{HEIGHT}"),
                ],
            },
            "goog:loggingPrefs": {"browser": "ALL"},
            // A dialog is to stay, so that it is found.
            "unhandledPromptBehavior": "ignore",
        });
        let Value::Object(capabilities) = capabilities else { bail!("capabilities") };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .context("no session with the browser")?;
        let browser = Self { client, _driver: driver };
        // The size of the page, not of a window around it.
        let size =
            json!({"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": false});
        browser.devtools("Emulation.setDeviceMetricsOverride", size).await?;
        Ok(Some(browser))
    }

    /// Opens a file.
    pub(crate) async fn open(&self, page: &Path) -> Result<()> {
        // What was logged of another page is not this one's.
        self.log().await?;
        self.client.goto(&format!("file://{}", page.display())).await?;
        Ok(())
    }

    pub(crate) async fn close(self) -> Result<()> {
        self.client.close().await?;
        Ok(())
    }

    /// In the colours for the dark, or for print.
    pub(crate) async fn emulate(&self, media: &str, scheme: &str) -> Result<()> {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"media": media, "features": features}))
            .await
    }

    /// Runs no script of any page from now on.
    pub(crate) async fn without_scripts(&self) -> Result<()> {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({"value": true})).await
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Result<()> {
        let body = json!({"cmd": command, "params": parameters});
        self.client.issue_cmd(Extension("goog/cdp/execute", body)).await?;
        Ok(())
    }

    async fn log(&self) -> Result<Vec<String>> {
        let lines = self.client.issue_cmd(Extension("se/log", json!({"type": "browser"}))).await?;
        let lines = lines.as_array().context("a log")?.iter();
        Ok(lines.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// Fails if anything was wrong with the page: errors, violations of its policy, dialogs, requests.
    pub(crate) async fn expect_peace(&self) -> Result<()> {
        if let Ok(text) = self.client.get_alert_text().await {
            bail!("a dialog is open: {text}");
        }
        let log = self.log().await?;
        ensure!(log.is_empty(), "the page has something to say: {log:#?}");
        let script = "return performance.getEntriesByType('resource').map(entry => entry.name)";
        let requests = self.client.execute(script, vec![]).await?;
        ensure!(requests == json!([]), "requests were made: {requests}");
        Ok(())
    }

    pub(crate) async fn find(&self, selector: &str) -> Result<Element> {
        // Some of a page appears a moment after what asked for it.
        let wait = self.client.wait().at_most(on_this_machine(PATIENCE));
        wait.for_element(Locator::Css(selector)).await.with_context(|| selector.to_owned())
    }

    pub(crate) async fn count(&self, selector: &str) -> Result<usize> {
        Ok(self.client.find_all(Locator::Css(selector)).await?.len())
    }

    /// What is to be read there: nothing of what is hidden.
    pub(crate) async fn text(&self, selector: &str) -> Result<String> {
        Ok(self.find(selector).await?.text().await?)
    }

    /// The same of each.
    pub(crate) async fn texts(&self, selector: &str) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        for element in self.client.find_all(Locator::Css(selector)).await? {
            texts.push(element.text().await?);
        }
        Ok(texts)
    }

    /// Waits until it reads so.
    pub(crate) async fn expect_text(&self, selector: &str, expected: &str) -> Result<()> {
        let mut last = String::new();
        for _ in 0..on_this_machine(PATIENCE).as_millis() / 20 {
            last = self.text(selector).await?;
            if last == expected {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{selector} reads {last:?}, not {expected:?}");
    }

    pub(crate) async fn click(&self, selector: &str) -> Result<()> {
        Ok(self.find(selector).await?.click().await?)
    }

    /// Types into a field in the place of what it holds.
    pub(crate) async fn write(&self, selector: &str, text: &str) -> Result<()> {
        let field = self.find(selector).await?;
        field.clear().await?;
        Ok(field.send_keys(text).await?)
    }

    /// Presses a key, whatever has the focus.
    pub(crate) async fn press(&self, key: char) -> Result<()> {
        let keys = KeyActions::new("keys".into())
            .then(KeyAction::Down { value: key })
            .then(KeyAction::Up { value: key });
        Ok(self.client.perform_actions(keys).await?)
    }

    /// Moves the pointer over the graph: a part of its width from the left, and a row from its root.
    pub(crate) async fn point(&self, across: f64, row: usize, click: bool) -> Result<()> {
        self.point_from(across, row, true, click).await
    }

    /// The same where the root is at the top.
    pub(crate) async fn point_icicle(&self, across: f64, row: usize, click: bool) -> Result<()> {
        self.point_from(across, row, false, click).await
    }

    async fn point_from(&self, across: f64, row: usize, below: bool, click: bool) -> Result<()> {
        const ROW: f64 = 18.0;
        let script = "arguments[0].scrollIntoView({block: 'center'}); \
                      const r = arguments[0].getBoundingClientRect(); \
                      return [r.left, r.top, r.width, r.height]";
        let graph = serde_json::to_value(self.find("#graph").await?)?;
        let place = self.client.execute(script, vec![graph]).await?;
        let [left, top, width, height]: [f64; 4] = serde_json::from_value(place)?;
        let down = (row as f64 + 0.5) * ROW;
        let y = if below { top + height - down } else { top + down };
        let to = |x: f64| PointerAction::MoveTo { duration: None, x, y };
        let mut mouse = MouseActions::new("mouse".into())
            .then(to(left + across * width - 1.0))
            .then(to(left + across * width));
        if click {
            mouse =
                mouse.then(PointerAction::Down { button: 0 }).then(PointerAction::Up { button: 0 });
        }
        Ok(self.client.perform_actions(mouse).await?)
    }

    /// What a script in the page gives back.
    pub(crate) async fn ask(&self, script: &str) -> Result<Value> {
        Ok(self.client.execute(script, vec![]).await?)
    }

    /// The page as it is seen, as a PNG.
    pub(crate) async fn screenshot(&self) -> Result<Vec<u8>> {
        Ok(self.client.screenshot().await?)
    }
}

/// A command of this driver's own.
#[derive(Debug)]
struct Extension(&'static str, Value);

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> std::result::Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.1.to_string()))
    }
}
