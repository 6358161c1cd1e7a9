//! Answers on their way out: Python hands over the answer rows of a batch, the IO thread renders and sends them.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::sync::mpsc;

use super::calls::Method;
use super::clock::monotonic_ns;
use super::counts::Counted;
use super::front::{Entry, Front, Reply};
use super::guard::caught;
use super::many;
use super::refusal::Refusal;
use super::reply;
use crate::answer_rows::AnswerRow;
use crate::answers::{self, End, TailMissing, Tails};

/// A batch that Python has decided, or given up.
pub struct Answered {
    pub entries: Vec<Entry>,
    /// One for each entry; those of refused entries are not looked at.
    pub rows: Vec<AnswerRow>,
    /// By row, ascending.
    pub refusals: Vec<(usize, Refusal)>,
    /// When Python handed the batch over.
    pub handed_ns: i64,
}

impl Answered {
    /// What each thread is to send, in the order of the rows.
    pub fn by_thread(self, threads: usize) -> Vec<Self> {
        let handed_ns = self.handed_ns;
        let none = || Self { entries: Vec::new(), rows: Vec::new(), refusals: Vec::new(), handed_ns };
        let mut parts: Vec<Self> = (0..threads).map(|_| none()).collect();
        let mut refusals = self.refusals.into_iter().peekable();
        for (place, (entry, row)) in self.entries.into_iter().zip(self.rows).enumerate() {
            let part = &mut parts[entry.thread];
            if let Some((_, refusal)) = refusals.next_if(|(refused, _)| *refused == place) {
                part.refusals.push((part.entries.len(), refusal));
            }
            part.entries.push(entry);
            part.rows.push(row);
        }
        parts
    }
}

/// Send answers as they come, until the front end ends.
pub async fn run(front: Arc<Front>, mut answered: mpsc::UnboundedReceiver<Answered>) {
    while let Some(batch) = answered.recv().await {
        caught(&front.counts, || send(&front, batch)); // the batch's streams are reset by being dropped
    }
}

fn send(front: &Arc<Front>, batch: Answered) {
    let mut refusals = batch.refusals.into_iter().peekable();
    let tails = front.tails.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut frames = BytesMut::with_capacity(512 * batch.rows.len());
    let now_ns = monotonic_ns();
    front.lagged((now_ns - batch.handed_ns).max(0));
    for (place, (mut entry, row)) in batch.entries.into_iter().zip(&batch.rows).enumerate() {
        let refusal = refusals.next_if(|(refused, _)| *refused == place);
        caught(&front.counts, || {
            if let Some((_, refusal)) = refusal {
                refuse(front, entry, &refusal);
            } else if entry.deadline_ns > 0 && entry.deadline_ns <= now_ns {
                refuse(front, entry, &front.refusals.deadline); // decided and kept: the retry gets it
            } else if answer(front, &mut entry, row, &tails, &mut frames).is_ok() {
                settle(front, &entry, row);
            } else {
                front.counts.count(Counted::Internal); // decided and kept: the retry gets it
                refuse(front, entry, &front.refusals.internal);
            }
        });
    }
}

/// Record what a decision took; a replay is none.
fn settle(front: &Front, entry: &Entry, row: &AnswerRow) {
    if !row.replayed && !front.ledger.settle(row, entry.arrival_ns, entry.deadline_ns, monotonic_ns()) {
        front.counts.count(Counted::LedgerMismatch);
    }
}

/// End an entry without a decision.
pub fn refuse(front: &Front, entry: Entry, refusal: &Refusal) {
    match entry.reply {
        Reply::Unary(call) => {
            if let Some(mut respond) = call.take() {
                front.calls.end(Method::Score, reply::refuse(&mut respond, refusal));
            }
        }
        Reply::Row(slot) => slot.put(many::result(entry.transaction.id(), End::Error(&refusal.status))),
        Reply::Sent => (),
    }
}

fn answer(
    front: &Arc<Front>,
    entry: &mut Entry,
    row: &AnswerRow,
    tails: &Tails,
    frames: &mut BytesMut,
) -> Result<(), TailMissing> {
    let id = entry.transaction.id();
    frames.clear(); // of what an answer before may have left that failed
    frames.put_slice(&[0; reply::PREFIX_BYTES]);
    answers::render(row, id, tails, frames)?;
    let mut frame = frames.split();
    match std::mem::replace(&mut entry.reply, Reply::Sent) {
        Reply::Unary(call) => {
            let Some(mut respond) = call.take() else { return Ok(()) }; // ended at its deadline: likewise
            reply::put_prefix(&mut frame);
            let late_at_ns = (!row.replayed).then(|| entry.arrival_ns.saturating_add(front.settings.late_ns));
            // Gone: the answer is kept for the retry
            let ended = reply::answer(front, &mut respond, frame.freeze(), row.replayed, late_at_ns);
            front.calls.end(Method::Score, ended);
        }
        Reply::Row(slot) => slot.put(many::result(id, End::Response(&frame[reply::PREFIX_BYTES..]))),
        Reply::Sent => (),
    }
    Ok(())
}
