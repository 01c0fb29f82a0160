//! `pull`: pulls an image and shows the progress of each layer.

use std::collections::HashMap;

use clap::Args;

use super::connect::Client;
use super::error::Error;
use super::images::size;
use super::screen::{Bars, Progress, Screen};
use crate::proto::podbay::v1::{
    PullProgress, PullRequest, PullState, PulledImage, pull_response::Event,
};

/// Number of digits shown of a layer's digest.
const SHORT: usize = 12;

/// What `pull` takes.
#[derive(Debug, Clone, Args)]
pub struct PullArgs {
    /// Images to pull
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Print only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Unpack for this runtime handler
    #[arg(long, value_name = "HANDLER", default_value = "")]
    pub runtime_handler: String,
}

/// Pulls images, one after another.
pub async fn pull(client: &mut Client, args: &PullArgs, screen: Screen) -> Result<(), Error> {
    for image in &args.images {
        let request = PullRequest {
            image: image.clone(),
            credentials: None,
            runtime_handler: args.runtime_handler.clone(),
        };
        let PulledImage { id, reference, .. } = follow(client, request, args, screen).await?;
        let line = match args.quiet {
            true => format!("{id}\n"),
            false => format!("{reference} {id}\n"),
        };
        screen.print(&line)?;
    }
    Ok(())
}

/// Shows the progress of a pull until its end.
async fn follow(
    client: &mut Client,
    request: PullRequest,
    args: &PullArgs,
    screen: Screen,
) -> Result<PulledImage, Error> {
    let mut shown = match (args.quiet, screen.shows_progress()) {
        (true, _) => Shown::Nothing,
        (false, true) => Shown::Bars(LayerBars::new(screen, &request.image)),
        (false, false) => Shown::Lines(screen),
    };
    let mut stream = client.images.pull(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        match message.event {
            Some(Event::Progress(step)) => shown.step(&step),
            Some(Event::Image(image)) => return Ok(image),
            // From a newer agent.
            None => {}
        }
    }
    Err(Error::Failed("the pull ended without an image".to_owned()))
}

/// How progress is shown.
enum Shown {
    Nothing,
    /// On a terminal.
    Bars(LayerBars),
    /// Without a terminal: a line for each stored and unpacked layer.
    Lines(Screen),
}

impl Shown {
    fn step(&mut self, step: &PullProgress) {
        match self {
            Self::Nothing => {}
            Self::Bars(bars) => bars.step(step),
            Self::Lines(screen) => {
                if let Some(line) = line(step) {
                    screen.note(&line);
                }
            }
        }
    }
}

/// The line for a layer if there is no terminal.
fn line(step: &PullProgress) -> Option<String> {
    let what = match step.state() {
        PullState::Stored => "downloaded",
        PullState::Unpacked => "unpacked",
        _ => return None,
    };
    let layer = short(&step.digest).filter(|layer| !layer.is_empty())?;
    Some(format!("{layer}: {what} ({})", size(step.total)))
}

fn short(digest: &str) -> Option<&str> {
    let hex = digest.trim_start_matches("sha256:");
    Some(hex.get(..SHORT).unwrap_or(hex))
}

/// A line for the image and a bar for each layer, in order.
struct LayerBars {
    bars: Bars,
    image: Progress,
    layers: HashMap<String, Progress>,
}

impl LayerBars {
    fn new(screen: Screen, image: &str) -> Self {
        let bars = screen.bars();
        let line = bars.add(image);
        line.say("resolving");
        Self { bars, image: line, layers: HashMap::new() }
    }

    fn step(&mut self, step: &PullProgress) {
        let PullProgress { digest, done, total, .. } = step;
        if digest.is_empty() {
            match step.state() {
                PullState::Waiting => self.image.say("waiting for other pulls"),
                PullState::Resolving => self.image.say("resolving"),
                PullState::Downloading => self.image.say(&format!("{} in total", size(*total))),
                PullState::Unspecified | PullState::Stored | PullState::Unpacked => {}
            }
            return;
        }
        let name = short(digest).unwrap_or_default();
        let bar = self.layers.entry(digest.clone()).or_insert_with(|| self.bars.add(name));
        match step.state() {
            PullState::Waiting => bar.say("waiting"),
            PullState::Downloading => bar.bytes("downloading", *done, *total),
            PullState::Stored => bar.bytes("unpacking", *total, *total),
            PullState::Unpacked => bar.bytes("done", *total, *total),
            PullState::Unspecified | PullState::Resolving => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_a_layer_has_come_to() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let step = |state: PullState, digest: &str| {
            line(&PullProgress {
                digest: digest.to_owned(),
                state: state.into(),
                done: 1,
                total: 2000,
            })
        };
        assert_eq!(step(PullState::Stored, &digest).unwrap(), "abababababab: downloaded (2.00kB)");
        assert_eq!(step(PullState::Unpacked, "x").unwrap(), "x: unpacked (2.00kB)");
        assert_eq!(step(PullState::Downloading, &digest), None);
        assert_eq!(step(PullState::Stored, ""), None);
    }
}
