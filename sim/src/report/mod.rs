//! A verdict for people: [`text`] for the terminal, and one self-contained page ([`page`]) that tells the story of a run.
//!
//! The page is made in three steps. [`tables`] turns a recording into flat tables: bars, marks, arrows, each with its
//! words ([`words`], [`facts`]). [`story`] reads the violation, finds the rows that make it up and tells them in
//! order. `page.html` draws both; it loads nothing from anywhere.

mod facts;
pub mod page;
mod story;
mod tables;
mod text;
mod words;

pub use text::{failure, line, replay, timeline};
