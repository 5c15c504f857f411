//! The verbs, a file each. A new one is a file here, its `mod` line and its line in the list below.

mod cluster;
mod compact;
mod example;
mod export;
mod ids;
mod influence;
pub(crate) mod info;
mod judged;
mod map;
mod mean_vectors;
mod merge;
mod partial;
mod prune;
mod recover;
mod report;
mod score_table;
mod scores;
mod serve;
mod similar;
mod suspects;
mod sync;
mod threshold;
mod velocity;
mod verify;
mod watch;

use crate::error::CliError;
use crate::frame;
pub(crate) use crate::frame::Outcome;
use crate::output::Console;
use clap::Subcommand;
pub(crate) use influence::influence_methods;

/// Makes the enum of verbs, and the call of each through the frame.
macro_rules! verbs {
    ($($name:ident($arguments:ty),)*) => {
        #[derive(Debug, Subcommand)]
        pub(crate) enum Verbs {
            $($name(Box<$arguments>),)*
        }

        impl Verbs {
            /// Runs the verb that was typed.
            pub(crate) fn run(&self, console: &mut Console<'_>) -> Result<Outcome, CliError> {
                match self {
                    $(Self::$name(arguments) => frame::run(arguments.as_ref(), console),)*
                }
            }
        }
    };
}

verbs! {
    Info(info::Arguments),
    Watch(watch::Arguments),
    Report(report::Arguments),
    Serve(serve::Arguments),
    Verify(verify::Arguments),
    Recover(recover::Arguments),
    Compact(compact::Arguments),
    Sync(sync::Arguments),
    Scores(scores::Arguments),
    Example(example::Arguments),
    Suspects(suspects::Arguments),
    Threshold(threshold::Arguments),
    Map(map::Arguments),
    Prune(prune::Arguments),
    Velocity(velocity::Arguments),
    Influence(influence::Arguments),
    Merge(merge::Arguments),
    Similar(similar::Arguments),
    Cluster(cluster::Arguments),
    Export(export::Arguments),
}
