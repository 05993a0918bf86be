//! What a database must survive, tried out in every place.
//!
//! - `life`: a script that makes the engine do all it can, and a model that says what may be found after any of it.
//! - `elsewhere`: a database that nothing happens to, for rows to come from and go to.
//! - `crash`: the machine goes down in every single operation of the disk, in every way.
//! - `full`: the disk is full from every single operation on.
//! - `damage`: every file is damaged in every place.
//!
//! A new operation of the engine becomes a [`life::Step`]: one line there, one where steps are taken, one in the script.

mod crash;
mod damage;
mod elsewhere;
mod full;
mod life;
