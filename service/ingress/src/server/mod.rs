//! The server: what accepts, decodes, admits, batches and answers.

mod bell;
mod callers;
mod calls;
mod cells;
mod clock;
mod connection;
mod counts;
mod deadlines;
mod dispatch;
mod front;
mod gate;
mod guard;
mod held;
mod ingress;
mod ledger;
mod listener;
mod many;
mod message;
mod pages;
mod pause;
mod pulse;
mod refusal;
mod reply;
mod request;
mod results;
mod settings;
mod side;
mod socket;
mod thread;
mod unary;
mod unheard;

pub use ingress::register;
