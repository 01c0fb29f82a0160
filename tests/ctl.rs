//! The command line end to end: the built program with a fake agent on a unix socket.

#[path = "ctl/agent.rs"]
mod agent;
#[path = "ctl/changes.rs"]
mod changes;
#[path = "ctl/commands.rs"]
mod commands;
#[path = "ctl/copies.rs"]
mod copies;
#[path = "ctl/debug.rs"]
mod debug;
#[path = "ctl/door.rs"]
mod door;
#[path = "ctl/habits.rs"]
mod habits;
#[path = "ctl/images.rs"]
mod images;
#[path = "ctl/patches.rs"]
mod patches;
#[path = "ctl/settings.rs"]
mod settings;
#[path = "ctl/shows.rs"]
mod shows;
#[path = "ctl/streams.rs"]
mod streams;
#[path = "ctl/tls.rs"]
mod tls;
