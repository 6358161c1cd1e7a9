//! The loop of a run: one task, which at each wake-up reads all that came, then sends all that is due.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::arrivals::Arrivals;
use super::connection::Link;
use super::tally::Tally;
use super::timer::{Alarm, monotonic_ns, wall_ns};
use super::transactions::Transactions;
use super::{Pace, Plan, Shared};

/// The least time between two wake-ups to send: at high rates, calls that fall due within it share one.
const TICK_NS: i64 = 200_000;
/// The most calls that go down one connection before the next one has its turn, and before they are flushed.
const BURST_CALLS: usize = 64;
/// How soon a request to stop is seen.
const STOP_NS: i64 = 50_000_000;
const REDIAL: Duration = Duration::from_millis(100);
const MESSAGES_BYTES: usize = 1 << 16;

/// A call that is due.
struct Due {
    intended_ns: i64,
    /// When no connection took it; from then on it waits for the server.
    held_ns: Option<i64>,
}

type Dial = Pin<Box<dyn Future<Output = Result<Link, String>>>>;

pub struct Generator {
    plan: Plan,
    transactions: Arc<Transactions>,
    shared: Arc<Shared>,
    links: Vec<Link>,
    dials: FuturesUnordered<Dial>,
    /// The link whose turn it is to send.
    turn: usize,
    schedule: Option<Peekable<Arrivals>>,
    /// Calls that are due but not sent.
    backlog: VecDeque<Due>,
    /// How many of them, from the front, have found no connection that takes them.
    held: usize,
    alarm: Alarm,
    start_ns: i64,
    end_ns: i64,
    last_send_ns: i64,
    messages: BytesMut,
    scratch: Vec<u8>,
    pub tally: Tally,
}

impl Generator {
    /// Dial every connection. Err: why one of them failed.
    pub async fn connect(
        mut plan: Plan,
        transactions: Arc<Transactions>,
        shared: Arc<Shared>,
    ) -> Result<Generator, String> {
        let mut links = Vec::with_capacity(plan.connections);
        for _ in 0..plan.connections {
            links.push(plan.dialler.dial().await?);
        }
        let schedule = match &mut plan.pace {
            Pace::Open(arrivals) => Some(arrivals.clone().peekable()),
            Pace::Closed(_) => None,
        };
        let start_ns = monotonic_ns();
        Ok(Generator {
            end_ns: start_ns.saturating_add(plan.duration_ns),
            plan,
            transactions,
            shared,
            links,
            dials: FuturesUnordered::new(),
            turn: 0,
            schedule,
            backlog: VecDeque::new(),
            held: 0,
            alarm: Alarm::new().map_err(|error| error.to_string())?,
            start_ns,
            last_send_ns: 0,
            messages: BytesMut::with_capacity(MESSAGES_BYTES),
            scratch: Vec::new(),
            tally: Tally { last_end_ns: start_ns, ..Tally::default() },
        })
    }

    /// The instants between which calls were meant to be sent.
    pub fn span_ns(&self) -> (i64, i64) {
        (self.start_ns, self.end_ns)
    }

    /// One wake-up; ready when the run is over.
    pub fn wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        loop {
            self.drive(cx);
            let now_ns = monotonic_ns();
            self.collect(cx, now_ns);
            self.keep_connected(cx);
            self.heed_stop(now_ns);
            self.notice(now_ns);
            let sent = self.send(now_ns);
            if self.is_over(now_ns) {
                self.lose_the_rest();
                return Poll::Ready(Ok(()));
            }
            if !sent || self.backlog.is_empty() || !self.has_room() {
                break;
            }
        }
        if self.drive(cx) {
            cx.waker().wake_by_ref(); // there is more to read
        }
        let wake_ns = self.next_wake_ns();
        match self.alarm.set(wake_ns, cx) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(format!("the timer: {error}"))),
        }
    }

    /// Write all, read some; true if there is more to read.
    fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        self.links.iter_mut().fold(false, |more, link| link.drive(cx) | more)
    }

    fn collect(&mut self, cx: &mut Context<'_>, now_ns: i64) {
        for link in &mut self.links {
            while let Some(end) = link.poll_end(cx) {
                self.tally.end(end, now_ns);
            }
        }
        self.shared.answered.store(self.tally.answered, Ordering::Relaxed);
    }

    /// Replace connections that take no more calls.
    fn keep_connected(&mut self, cx: &mut Context<'_>) {
        self.links.retain(|link| !link.is_spent());
        let open = self.links.iter().filter(|link| link.is_open()).count();
        for _ in open + self.dials.len()..self.plan.connections {
            let dialler = self.plan.dialler.clone();
            self.dials.push(Box::pin(async move {
                tokio::time::sleep(REDIAL).await;
                dialler.dial().await
            }));
        }
        while !self.dials.is_empty() {
            match self.dials.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(link))) => self.links.push(link),
                Poll::Ready(Some(Err(_))) => return cx.waker().wake_by_ref(), // dial again
                _ => return,
            }
        }
    }

    fn heed_stop(&mut self, now_ns: i64) {
        match self.shared.stop.load(Ordering::Relaxed) {
            0 => {}
            1 => self.end_ns = self.end_ns.min(now_ns),
            _ => {
                self.end_ns = self.end_ns.min(now_ns);
                self.plan.grace_ns = 0;
            }
        }
    }

    /// Take what is due from the schedule.
    fn notice(&mut self, now_ns: i64) {
        let until_ns = now_ns.min(self.end_ns - 1) - self.start_ns;
        if let Some(schedule) = &mut self.schedule {
            while let Some(due_ns) = schedule.next_if(|&due_ns| due_ns <= until_ns) {
                self.backlog.push_back(Due { intended_ns: self.start_ns + due_ns, held_ns: None });
            }
        }
    }

    /// Send what can be sent; true if that was something.
    fn send(&mut self, now_ns: i64) -> bool {
        let before = self.tally.sent;
        let wall_ns = wall_ns();
        match self.plan.pace {
            Pace::Open(_) => self.send_backlog(now_ns, wall_ns),
            Pace::Closed(concurrency) if now_ns < self.end_ns => self.fill(concurrency, now_ns, wall_ns),
            Pace::Closed(_) => {}
        }
        if self.tally.sent == before {
            return false;
        }
        self.last_send_ns = now_ns;
        self.tally.in_flight_max = self.tally.in_flight_max.max(self.in_flight());
        true
    }

    fn send_backlog(&mut self, now_ns: i64, wall_ns: i64) {
        for _ in 0..self.links.len() {
            if self.backlog.is_empty() {
                return;
            }
            self.turn = (self.turn + 1) % self.links.len();
            let calls = self.links[self.turn].room().min(BURST_CALLS).min(self.backlog.len());
            for _ in 0..calls {
                let Due { intended_ns, held_ns } = self.backlog[0];
                if !self.call(self.turn, intended_ns, wall_ns) {
                    break;
                }
                self.backlog.pop_front();
                self.held = self.held.saturating_sub(1);
                self.tally.send(intended_ns, held_ns, now_ns);
            }
        }
        if !self.has_room() {
            self.hold(now_ns);
        }
    }

    /// Nothing takes what waits now: this is the server's doing, not the generator's.
    fn hold(&mut self, now_ns: i64) {
        for due in self.backlog.range_mut(self.held..) {
            due.held_ns = Some(now_ns);
        }
        self.held = self.backlog.len();
    }

    /// Top every connection up to its share of `concurrency` calls.
    fn fill(&mut self, concurrency: usize, now_ns: i64, wall_ns: i64) {
        let open = self.links.iter().filter(|link| link.is_open()).count();
        let mut place = 0;
        for number in 0..self.links.len() {
            if !self.links[number].is_open() {
                continue;
            }
            let share = concurrency / open + usize::from(place < concurrency % open);
            place += 1;
            let calls = share.saturating_sub(self.links[number].in_flight()).min(self.links[number].room());
            for _ in 0..calls {
                if !self.call(number, now_ns, wall_ns) {
                    break;
                }
            }
        }
    }

    fn call(&mut self, number: usize, intended_ns: i64, wall_ns: i64) -> bool {
        if self.messages.capacity() < MESSAGES_BYTES / 64 {
            self.messages.reserve(MESSAGES_BYTES);
        }
        self.transactions.encode(self.tally.sent, wall_ns, &mut self.scratch, &mut self.messages);
        let sent = self.links[number].call(intended_ns, self.messages.split().freeze());
        self.tally.sent += u64::from(sent);
        sent
    }

    fn has_room(&self) -> bool {
        self.links.iter().any(|link| link.room() > 0)
    }

    fn in_flight(&self) -> usize {
        self.links.iter().map(Link::in_flight).sum()
    }

    fn is_over(&self, now_ns: i64) -> bool {
        now_ns >= self.end_ns
            && ((self.backlog.is_empty() && self.in_flight() == 0) || now_ns >= self.end_ns + self.plan.grace_ns)
    }

    fn lose_the_rest(&mut self) {
        self.tally.lose("no answer by the end", self.in_flight() as u64);
        self.tally.lose("never sent: no connection took it", self.backlog.len() as u64);
        let now_ns = monotonic_ns();
        for due in &self.backlog {
            self.tally.send(due.intended_ns, due.held_ns, now_ns);
        }
    }

    fn next_wake_ns(&mut self) -> i64 {
        let now_ns = monotonic_ns();
        let edge_ns = if now_ns < self.end_ns { self.end_ns } else { self.end_ns + self.plan.grace_ns };
        let idle_ns = edge_ns.min(now_ns + STOP_NS).max(now_ns + 1);
        match self.schedule.as_mut().and_then(|schedule| schedule.peek().copied()) {
            Some(due_ns) if self.start_ns + due_ns < self.end_ns => {
                (self.start_ns + due_ns).max(self.last_send_ns + TICK_NS).min(idle_ns)
            }
            _ => idle_ns,
        }
    }
}
