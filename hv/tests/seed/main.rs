//! The virtual CPU, section by section of the reference design (`README.md` has the table), on a processor whose exits the test makes.
//!
//! Each section lists its tests, so that they can be run again with a bug planted ([`planted`]), and with each of SVM's optional features ([`features`]).

mod features;
mod planted;
mod puppet;
mod seed_01_setup;
mod seed_02_enable;
mod seed_03_creation;
mod seed_04_run_loop;
mod seed_05_dispatch;
mod seed_08_msrs;
mod seed_09_events;
mod seed_10_asids;
mod seed_11_control;
mod seed_12_segments;
mod seed_13_destroy;
mod seed_14_whole;
mod stage;
