//! `nokv sim diverge`: the first event in which two runs differ.

use super::of_seed;
use crate::args::Format;
use crate::args::sim::Diverge;
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use nokv_sim::RunOptions;
use nokv_sim::cases::Case;
use nokv_sim::events::{Events, diverge};
use std::path::Path;

/// A run: to be made, or made earlier.
enum Side {
    Run(String, Box<RunOptions>),
    Recorded(Events),
}

impl Side {
    fn events(self) -> Events {
        match self {
            Side::Run(about, options) => Events::of(about, &options).1,
            Side::Recorded(events) => events,
        }
    }
}

/// Compares two runs.
pub fn run(args: &Diverge, format: Format) -> Result<u8> {
    let (first, second) = (side(&args.first, args)?, side(&args.second, args)?);
    // Side by side and on threads of their own, so that whatever a world shares with another can show.
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| second.events());
        let first = first.events();
        (first, second.join())
    });
    let second = second.map_err(|_| Failure::new(Code::Internal, "the second run panicked"))?;
    let parting = diverge(&first, &second, args.around as usize);
    let mut out = Out::new();
    match (&parting, format) {
        (Some(parting), Format::Plain) => out.write(parting.to_string().as_bytes())?,
        (None, Format::Plain) => {
            out.line(&format!("equal: {} events, trace {:016x}", first.len(), first.trace))?;
        }
        _ => out.json(&serde_json::json!({
            "equal": parting.is_none(),
            "difference": parting,
            "first": about(&first),
            "second": about(&second),
        }))?,
    }
    out.flush()?;
    match parting {
        None => Ok(0),
        Some(parting) => Err(Failure::new(
            Code::RunsDiffer,
            format!("{} and {} part at event {}", first.about, second.about, parting.index),
        )
        .detail("index", parting.index)),
    }
}

fn about(events: &Events) -> serde_json::Value {
    serde_json::json!({
        "about": events.about,
        "events": events.len(),
        "trace": format!("{:016x}", events.trace),
    })
}

/// A number is a seed; a file is a recording, or a case.
fn side(text: &str, args: &Diverge) -> Result<Side> {
    if let Ok(seed) = text.parse() {
        return Ok(Side::Run(format!("seed {seed}"), Box::new(of_seed(seed, args.given))));
    }
    let path = Path::new(text);
    let bytes = std::fs::read(path).map_err(|error| {
        let failure = Failure::io(format!("read {text}"), &error);
        failure.why("what is compared is a seed, a case, or a recording").next("nokv sim diverge --help")
    })?;
    if Events::is(&bytes) {
        let events = Events::from_bytes(&bytes).map_err(|what| {
            Failure::new(Code::Corrupt, format!("{text} is a damaged recording: {what}"))
                .next("nokv sim run --seed S --record FILE writes it again")
        })?;
        return Ok(Side::Recorded(events));
    }
    let case = String::from_utf8(bytes).ok().and_then(|text| Case::parse(&text).ok());
    let case = case.ok_or_else(|| {
        Failure::usage(format!("{text} is neither a saved case nor a recording"))
            .next("nokv sim run --seed S --record FILE writes a recording")
    })?;
    Ok(Side::Run(format!("case {text}"), Box::new(case.options())))
}
