//! ScoreBatch() and ScoreStream(): calls of many rows, each call a task.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use h2::SendStream;
use h2::server::SendResponse;

use super::counts::Counted;
use super::deadlines::until;
use super::dispatch;
use super::front::{Entry, Front, Origin, Reply};
use super::message::{Broken, Messages};
use super::refusal::{Refusal, code};
use super::reply::{self, Gone};
use super::results::Results;
use super::unary::{first_message, refusal_of, refuse, refuse_broken};
use crate::answers::{self, End};
use crate::transaction::Transaction;

/// One ScoreBatch(), from its headers to its trailers.
pub async fn score_batch(
    front: Arc<Front>,
    mut messages: Messages,
    mut respond: Option<SendResponse<Bytes>>,
    deadline_ns: i64,
    origin: Origin,
) {
    let packed = first_message(&front, &mut messages, deadline_ns).await;
    let body = match packed.and_then(|packed| messages.open(packed)) {
        Ok(body) => body,
        Err(broken) => return refuse_broken(&front, &mut respond, &broken, &origin),
    };
    let Ok(batch) = Transaction::decode_batch(&body) else {
        return refuse(&front, &mut respond, Counted::Undecodable, &front.refusals.undecodable, &origin);
    };
    drop(body); // it need not wait for the answers
    if !(1..=front.settings.score_batch_rows_max).contains(&batch.rows) {
        return refuse(&front, &mut respond, Counted::Invalid, &front.refusals.rows, &origin);
    }
    let Some(mut respond) = respond else { return };
    if front.is_closed() {
        front.counts.add(Counted::Unavailable, batch.rows as u64);
        origin.refused(batch.rows as u64);
        return front.calls.end(origin.method, reply::refuse(&mut respond, &front.refusals.draining));
    }
    let results = Results::new(true);
    let rows = batch.transactions.into_iter().map(Transaction::slimmed);
    admit_rows(&front, &results, rows, deadline_ns, &origin);
    let ended = tokio::select! {
        biased;
        ended = all_results(&results, &mut respond) => ended,
        () = until(deadline_ns) => Err(Ended::Refused(front.refusals.deadline.clone())),
    };
    let ended = match ended {
        Ok(frame) => reply::answer(&front, &mut respond, frame, false, None),
        Err(Ended::Gone) => {
            results.abandon();
            Err(Gone)
        }
        Err(Ended::Refused(refusal)) => reply::refuse(&mut respond, &refusal),
    };
    front.calls.end(origin.method, ended);
}

/// How a call of many rows ends early.
enum Ended {
    Gone,
    Refused(Refusal),
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Self {
        Ended::Gone
    }
}

fn lost() -> Ended {
    Ended::Refused(Refusal::plain(code::INTERNAL, "a row of the call was lost"))
}

/// Wait for every row, or for the caller to go. The encoded ScoreBatchResponse with its gRPC prefix.
async fn all_results(results: &Results, respond: &mut SendResponse<Bytes>) -> Result<Bytes, Ended> {
    let mut body = BytesMut::new();
    loop {
        for result in results.take_ready().map_err(|_| lost())? {
            answers::batch_entry(&result, &mut body);
        }
        if results.waiting() == 0 {
            return Ok(reply::framed(&body));
        }
        tokio::select! {
            () = results.changed() => (),
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return Err(Ended::Gone),
        }
    }
}

/// Admit rows that came together; a refused row has its result at once.
fn admit_rows(
    front: &Front,
    results: &Arc<Results>,
    transactions: impl IntoIterator<Item = Transaction>,
    deadline_ns: i64,
    origin: &Origin,
) {
    let entries = transactions.into_iter().map(|transaction| Entry {
        transaction,
        arrival_ns: 0,
        deadline_ns,
        caller: origin.caller,
        parent: origin.parent.clone(),
        thread: origin.thread,
        reply: Reply::Row(results.open()),
    });
    let refused = front.admit(entries.collect::<Vec<_>>());
    origin.refused(refused.len() as u64);
    for (entry, refusal) in refused {
        dispatch::refuse(front, entry, refusal);
    }
}

/// One ScoreStream(): results in request order; it reads no further while too many are unanswered.
pub async fn score_stream(
    front: Arc<Front>,
    messages: Messages,
    mut respond: SendResponse<Bytes>,
    deadline_ns: i64,
    origin: Origin,
) {
    let Ok(mut send) = respond.send_response(reply::head(false), false) else {
        return front.calls.end(origin.method, Err(Gone));
    };
    let results = Results::new(false);
    let ended = tokio::select! {
        biased;
        ended = converse(&front, messages, &mut send, &results, &origin) => ended,
        () = until(deadline_ns) => {
            results.abandon();
            Ok(Some(front.refusals.deadline.clone()))
        }
    };
    let ended = ended.and_then(|end| reply::end_with(&mut send, end.as_ref()));
    if ended.is_err() {
        results.abandon();
    }
    front.calls.end(origin.method, ended);
}

/// Read, admit and answer until both ends are through. The refusal that ended the reading, if one did.
async fn converse(
    front: &Front,
    mut messages: Messages,
    send: &mut SendStream<Bytes>,
    results: &Arc<Results>,
    origin: &Origin,
) -> Result<Option<Refusal>, Gone> {
    let mut streams_end = front.streams_end.subscribe(); // one that begins later is refused at its first message
    let (mut reading, mut end) = (true, None);
    loop {
        let Ok(ready) = results.take_ready() else { return Ok(Some(front.refusals.internal.clone())) };
        for result in ready {
            reply::write(front, send, reply::framed(&result)).await?;
        }
        let unanswered = results.waiting();
        if !reading && unanswered == 0 {
            return Ok(end);
        }
        tokio::select! {
            biased;
            _ = streams_end.changed(), if reading => (reading, end) = (false, Some(front.refusals.draining.clone())),
            message = poll_fn(|cx| messages.poll_next(&front.held, cx)), if reading && unanswered < front.settings.stream_unanswered_max => {
                match read(front, results, message, origin)? {
                    Read::Admitted => (),
                    Read::Ended(refusal) => (reading, end) = (false, refusal),
                }
            }
            () = results.changed() => (),
            _ = poll_fn(|cx| send.poll_reset(cx)) => return Err(Gone),
        }
    }
}

enum Read {
    Admitted,
    /// No further message is read; with a refusal where that is not the caller's wish.
    Ended(Option<Refusal>),
}

fn read(
    front: &Front,
    results: &Arc<Results>,
    message: Result<Option<Bytes>, Broken>,
    origin: &Origin,
) -> Result<Read, Gone> {
    let broken = |broken| {
        let (counted, refusal) = refusal_of(front, &broken).ok_or(Gone)?;
        front.counts.count(counted);
        origin.refused(1);
        Ok(Read::Ended(Some(refusal)))
    };
    let body = match message {
        Ok(Some(body)) => body,
        Ok(None) => return Ok(Read::Ended(None)),
        Err(error) => return broken(error),
    };
    if front.is_closed() {
        return Ok(Read::Ended(Some(front.refusals.draining.clone())));
    }
    match Transaction::decode_request(&body) {
        Ok(transaction) => {
            let row = transaction.map_or_else(Transaction::empty, Transaction::slimmed);
            admit_rows(front, results, [row], 0, origin);
        }
        Err(_) => return broken(Broken::Cut),
    }
    Ok(Read::Admitted)
}

/// An encoded ScoreResult.
pub fn result(transaction_id: &str, end: End<'_>) -> Bytes {
    let mut body = BytesMut::with_capacity(answers::result_bytes(transaction_id, end));
    answers::result(transaction_id, end, &mut body);
    body.freeze()
}
