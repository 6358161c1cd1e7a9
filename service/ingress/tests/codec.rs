//! Long and measuring runs of the codec: ``cargo test --release --no-default-features -- --ignored --nocapture``.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use fraudgate_ingress::answer_rows::AnswerRow;
use fraudgate_ingress::answers::{Tails, render};
use fraudgate_ingress::batcher::{Batcher, Policy};
use fraudgate_ingress::rows::Rows;
use fraudgate_ingress::transaction::{Text, Transaction};
use prost::encoding as wire;

const EXECUTIONS: usize = 4_000_000;

/// SplitMix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % end.max(1) as u64) as usize
    }
}

fn body(i: usize, attributes: usize) -> Vec<u8> {
    let (mut body, mut stamp) = (Vec::new(), Vec::new());
    wire::string::encode(1, &format!("tx-2018-08-08-{i:07}"), &mut body);
    wire::int64::encode(1, &(1_533_700_000 + i as i64), &mut stamp);
    wire::int32::encode(2, &123_456_789, &mut stamp);
    wire::bytes::encode(2, &stamp, &mut body);
    wire::int64::encode(3, &(1_250 + i as i64), &mut body);
    for (number, text) in
        [(4, "EUR"), (5, "customer-4242"), (6, "terminal-17"), (7, "card-tok-9f3a21"), (8, "merchant-88")]
    {
        wire::string::encode(number, &text.to_owned(), &mut body);
    }
    for key in 0..attributes {
        let mut entry = Vec::new();
        wire::string::encode(1, &format!("feature-{key}"), &mut entry);
        wire::double::encode(2, &(key as f64), &mut entry);
        wire::bytes::encode(11, &entry, &mut body);
    }
    body
}

fn request(body: &Vec<u8>) -> Bytes {
    let mut message = Vec::new();
    wire::bytes::encode(1, body, &mut message);
    message.into()
}

fn mutate(message: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(message.len());
    let end = (at + 1 + random.below(12)).min(message.len());
    match random.below(7) {
        0 if !message.is_empty() => message[at] = random.below(256) as u8,
        1 if !message.is_empty() => message[at] ^= 1 << random.below(8),
        2 => drop(message.drain(at.min(end)..end)),
        3 => message.insert(at, random.below(256) as u8),
        4 => message.extend_from_within(at.min(end)..end),
        5 if random.below(4) == 0 => message.truncate(at),
        _ => message.extend((0..random.below(6)).map(|_| random.below(256) as u8)),
    }
}

/// Touches all that a decoded transaction holds.
fn read_through(transactions: &[Transaction]) -> usize {
    let entries: Vec<_> = transactions.iter().take(32).map(|one| (one, 1, 2)).collect();
    let rows = Rows::new(&entries);
    let texts: usize = Text::ALL.iter().flat_map(|field| rows.texts(*field)).map(str::len).sum();
    let attributes = rows.attributes().into_iter().flatten().flatten().count();
    texts + attributes + transactions.iter().map(Transaction::texts_bytes).sum::<usize>()
}

#[test]
#[ignore = "long: millions of decodes"]
fn mutated_messages_decode_or_are_refused() {
    let mut random = Random(20_180_808);
    let seeds: Vec<Vec<u8>> = (0..16).map(|i| request(&body(i, i % 4)).to_vec()).collect();
    let mut pool = seeds.clone();
    let (mut decoded, started) = (0, Instant::now());
    for _ in 0..EXECUTIONS / 2 {
        let mut message = pool[random.below(pool.len())].clone();
        for _ in 0..1 + random.below(4) {
            mutate(&mut message, &mut random);
        }
        let bytes = Bytes::from(message);
        let batch = Transaction::decode_batch(&bytes);
        let request = Transaction::decode_request(&bytes);
        assert_eq!(batch.is_ok(), request.is_ok(), "both read the same fields");
        let Ok(batch) = batch else { continue };
        decoded += 1;
        black_box(read_through(&batch.transactions));
        let place = random.below(pool.len());
        let keep = batch.rows > 0 && (80..4_000).contains(&bytes.len()) && random.below(50) == 0;
        pool[place] = if keep { bytes.to_vec() } else { std::mem::take(&mut pool[place]) };
        if random.below(20_000) == 0 {
            pool[place] = seeds[random.below(seeds.len())].clone();
        }
    }
    println!("{EXECUTIONS} decodes, {} of them whole, in {:.1} s", 2 * decoded, started.elapsed().as_secs_f64());
}

#[test]
#[ignore = "long: a million calls"]
fn a_batcher_loses_nothing_over_random_logs() {
    let mut random = Random(5);
    let (mut calls, started) = (0_usize, Instant::now());
    for _ in 0..20_000 {
        let rows_max = 1 + random.below(6);
        let policy = if random.below(2) == 0 { Policy::Fixed } else { Policy::Eager };
        let gate_ns = 1 + random.below(20) as i64;
        let mut batcher = Batcher::new(gate_ns, rows_max, rows_max + random.below(20), policy).expect("valid sizes");
        let (mut now_ns, mut next, mut expected) = (0, 0_usize, Vec::new());
        let mut found = Vec::new();
        for _ in 0..100 {
            calls += 1;
            now_ns += random.below(8) as i64 - 1;
            match random.below(4) {
                0 => {
                    found.extend(batcher.poll(now_ns, random.below(2) == 0).into_iter().flat_map(|batch| batch.entries))
                }
                _ if batcher.add(next, now_ns).is_ok() => expected.push(next),
                _ => {}
            }
            next += 1;
        }
        batcher.close_open(now_ns);
        while let Some(batch) = batcher.poll(now_ns, false) {
            assert!((1..=rows_max).contains(&batch.entries.len()));
            found.extend(batch.entries);
        }
        assert_eq!(found, expected);
    }
    println!("{calls} calls in {:.1} s", started.elapsed().as_secs_f64());
}

/// The median over rounds of the time of one call.
fn median_ns(mut call: impl FnMut()) -> f64 {
    const CALLS: u32 = 2_000;
    let mut rounds: Vec<Duration> = (0..201)
        .map(|_| {
            let started = Instant::now();
            (0..CALLS).for_each(|_| call());
            started.elapsed() / CALLS * 1_000
        })
        .collect();
    rounds.sort_unstable();
    rounds[rounds.len() / 2].as_nanos() as f64 / 1_000.0
}

#[test]
#[ignore = "measures"]
fn timings() {
    let messages: Vec<Bytes> = (0..32).map(|i| request(&body(i, 0))).collect();
    let transactions: Vec<_> =
        messages.iter().map(|message| Transaction::decode_request(message).expect("valid").expect("there")).collect();
    let entries: Vec<_> = transactions.iter().map(|one| (one, 1, 0)).collect();
    let mut i = 0;
    let decode_ns = median_ns(|| {
        i = (i + 1) % 32;
        black_box(Transaction::decode_request(black_box(&messages[i])).is_ok());
    });
    let rows_ns = median_ns(|| drop(black_box(Rows::new(black_box(&entries)))));
    let mut bytes = [0; 73];
    bytes[1..5].copy_from_slice(&[1, 1, 1, 0]);
    bytes[25..73].copy_from_slice(&[7; 48]);
    let answers: Vec<_> = vec![AnswerRow::read(&bytes); 32];
    let mut tails = Tails::new();
    tails.put(answers[0].edition, answers[0].rules, "0123456789abcdef", Bytes::from(vec![b'x'; 160]));
    let mut out = BytesMut::with_capacity(32 * 400);
    let render_ns = median_ns(|| {
        out.clear();
        for (answer, one) in answers.iter().zip(&transactions) {
            render(answer, one.id(), &tails, &mut out).expect("its tail is there");
        }
        black_box(&out);
    }) / 32.0;
    println!("message {} bytes: decode {decode_ns:.0} ns", messages[0].len());
    println!("rows of 32: {rows_ns:.0} ns; render {render_ns:.0} ns a row");
}
