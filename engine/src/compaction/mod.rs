//! Compaction: merging tables into the next level, so that reads look at few tables and old versions
//! disappear.
//!
//! Three steps: [`pick`] looks at a version and chooses (pure), [`run`] merges and writes (slow, holds no
//! lock, yields), and the database installs the result (one edit of the manifest, then a new view). What is
//! written goes through [`output`], which keeps large values out of the tables. A large job is run in
//! several [`parts`] at the same time. What is worth a look when nobody writes, [`settle`] says.

mod level0;
pub(crate) mod output;
pub(crate) mod parts;
pub(crate) mod pick;
pub(crate) mod run;
pub(crate) mod settle;
