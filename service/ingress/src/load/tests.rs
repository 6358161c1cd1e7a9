//! Whole runs against a server in a thread of this process, which does as the test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Int64Array, StringArray, StructArray};
use bytes::Bytes;
use h2::Reason;
use h2::server::{Connection, SendResponse};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};

use super::arrivals::{Arrivals, Process};
use super::connection::Dialler;
use super::transactions::Transactions;
use super::{Outcome, Pace, Plan, Shared, run};

const MILLISECOND_NS: i64 = 1_000_000;
/// `decision` 2, `fallback` 1.
const ANSWER: &[u8] = b"\0\0\0\0\x04\x10\x02\x40\x01";

/// What the server does with one call, whose number on its connection is the second argument.
type Deed = fn(SendResponse<Bytes>, usize);

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(code))])
}

fn answer(mut call: SendResponse<Bytes>, _: usize) {
    let mut body = call.send_response(Response::new(()), false).expect("the stream is open");
    body.send_data(Bytes::from_static(ANSWER), false).expect("the stream is open");
    body.send_trailers(status("0")).expect("the stream is open");
}

fn refuse(mut call: SendResponse<Bytes>, _: usize) {
    let mut head = Response::new(());
    *head.headers_mut() = status("8");
    call.send_response(head, true).expect("the stream is open");
}

async fn serve(stream: TcpStream, streams_max: u32, deed: Deed, calls_max: usize) {
    let mut server = h2::server::Builder::new();
    let connection = server.max_concurrent_streams(streams_max).handshake::<_, Bytes>(stream).await;
    let mut connection: Connection<_, Bytes> = connection.expect("a client that speaks HTTP/2");
    let mut number = 0;
    while let Some(Ok((_, call))) = connection.accept().await {
        deed(call, number);
        number += 1;
        if number == calls_max {
            connection.graceful_shutdown();
        }
    }
}

/// A server that closes each connection after `calls_max` calls.
fn server(streams_max: u32, deed: Deed, calls_max: usize) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket option");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).expect("it does not block");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, streams_max, deed, calls_max));
            }
        });
    });
    address
}

fn transactions() -> Arc<Transactions> {
    let columns: [(&str, ArrayRef); 3] = [
        ("event_time", Arc::new(Int64Array::from(vec![0, 5]))),
        ("amount_minor", Arc::new(Int64Array::from(vec![100, 200]))),
        ("currency", Arc::new(StringArray::from(vec!["EUR", "EUR"]))),
    ];
    let columns = StructArray::try_from(columns.to_vec()).expect("columns of one length");
    Arc::new(Transactions::new(&columns, "t".into(), true).expect("good columns"))
}

fn load(target: SocketAddr, pace: Pace, milliseconds: i64) -> Outcome {
    let dialler = Dialler::new(&target.to_string(), "/fraudgate.v1.ScoringService/Score", None, None);
    let plan = Plan {
        dialler: dialler.expect("a good target"),
        connections: 2,
        pace,
        duration_ns: milliseconds * MILLISECOND_NS,
        grace_ns: 300 * MILLISECOND_NS,
    };
    run(plan, transactions(), Arc::<Shared>::default()).expect("the server listens")
}

fn constant(rate: f64) -> Pace {
    Pace::Open(Arrivals::new(Process::Constant, rate, 1))
}

#[test]
fn every_call_of_the_schedule_is_sent_and_counted() {
    let tally = load(server(100, answer, 0), constant(1_000.0), 500).tally;
    assert_eq!((tally.sent, tally.answered, tally.statuses[0]), (500, 500, 500));
    assert_eq!((tally.decisions[2], tally.fallbacks[1]), (500, 500));
    assert_eq!((tally.decided.count, tally.refused.count, tally.lag.count), (500, 0, 500));
    assert!(tally.lost.is_empty(), "{:?}", tally.lost);
}

#[test]
fn a_status_in_the_head_is_an_answer() {
    let tally = load(server(100, refuse, 0), constant(1_000.0), 200).tally;
    assert_eq!((tally.answered, tally.statuses[8], tally.refused.count, tally.decided.count), (200, 200, 200, 0));
}

#[test]
fn a_closed_loop_keeps_its_calls_under_way_and_no_more() {
    fn never(call: SendResponse<Bytes>, _: usize) {
        std::mem::forget(call);
    }
    let tally = load(server(100, never, 0), Pace::Closed(7), 100).tally;
    assert_eq!((tally.sent, tally.in_flight_max, tally.answered), (7, 7, 0));
    assert_eq!(tally.lost.into_iter().collect::<Vec<_>>(), [("no answer by the end", 7)]);
    let tally = load(server(100, answer, 0), Pace::Closed(7), 100).tally;
    assert_eq!(tally.in_flight_max, 7);
    assert_eq!((tally.answered, tally.lost.len()), (tally.sent, 0));
}

#[test]
fn what_cannot_be_sent_waits_and_its_wait_counts() {
    fn slowly(call: SendResponse<Bytes>, number: usize) {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            answer(call, number);
        });
    }
    // 2 connections x 5 streams / 50 ms = 200 a second at most; 400 a second are asked for. After 500 ms half of
    // the calls have been sent: the last one waits about 500 ms more.
    let tally = load(server(5, slowly, 0), constant(400.0), 500).tally;
    assert_eq!((tally.in_flight_max, tally.lag.count), (10, 200));
    assert!(tally.held.count > 150, "{}", tally.held.count);
    let lost: u64 = tally.lost.values().sum();
    assert_eq!(tally.answered + lost, 200);
    assert!(lost > 0, "the grace of 300 ms is shorter than the last call's wait");
    assert!(tally.decided.max_ns > 200 * MILLISECOND_NS, "{}", tally.decided.max_ns);
}

#[test]
fn a_connection_that_drains_is_replaced() {
    let tally = load(server(100, answer, 50), constant(500.0), 1_000).tally;
    let lost: u64 = tally.lost.values().sum();
    assert_eq!(tally.answered + lost, 500);
    assert!(tally.answered > 300, "two connections of 50 calls would be 100: {}", tally.answered);
}

#[test]
fn what_ends_without_a_status_is_lost() {
    let deeds: [(Deed, &str); 4] = [
        (|mut call, _| call.send_reset(Reason::INTERNAL_ERROR), "the server reset the stream"),
        (
            |mut call, _| {
                let head = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(()).expect("a head");
                call.send_response(head, true).expect("the stream is open");
            },
            "an HTTP status other than 200",
        ),
        (
            |mut call, _| drop(call.send_response(Response::new(()), true)),
            "the end of the stream without a grpc-status",
        ),
        (
            |mut call, _| {
                let mut body = call.send_response(Response::new(()), false).expect("the stream is open");
                body.send_data(Bytes::from_static(b"\0\0\0\0\x05ab"), false).expect("the stream is open");
                body.send_trailers(status("0")).expect("the stream is open");
            },
            "an answer that cannot be read",
        ),
    ];
    for (deed, why) in deeds {
        let tally = load(server(100, deed, 0), constant(200.0), 100).tally;
        assert_eq!(tally.lost.get(why), Some(&20), "{:?}", tally.lost);
        assert_eq!(tally.answered, 0);
    }
}

#[test]
fn nobody_listens() {
    let target = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let dialler = Dialler::new(&target.expect("a free port").to_string(), "/s/m", None, None).expect("a good target");
    let plan = Plan { dialler, connections: 1, pace: constant(1.0), duration_ns: 1, grace_ns: 0 };
    assert!(run(plan, transactions(), Arc::default()).is_err());
}
