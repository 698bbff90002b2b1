//! A seat behind a server: good answers are played, broken ones are tried again and then lost, and a lost reply makes its
//! episode void and no other.

use crate::chat_server::{Answer, Asked, ChatServer, broken, fails, says, stubborn};
use haggle::Error;
use haggle::negotiate::{Buyer, Episode, Outcome, Persona, Rules, Side, catalog};
use haggle::noise::Noise;
use haggle::remote::{Ask, Desk, Heard, Limits, Server, Stats};
use haggle::rollout::{self, Job, Player, RemoteVoice};
use haggle::text::{Message, Role};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// No variable has this name.
const NO_KEY: &str = "HAGGLE_TEST_NO_SUCH_KEY";

/// Limits of milliseconds; the breaker stays out of the way.
fn quick() -> Limits {
    let ms = Duration::from_millis;
    Limits {
        concurrency: 4,
        connect: ms(2_000),
        read: ms(400),
        retries: 2,
        backoff: ms(5),
        failures: 1_000,
        cooling: ms(20),
        coolings: 3,
    }
}

fn open(server: &ChatServer, limits: Limits) -> Arc<Server> {
    let server = Server::new(&server.url, None, NO_KEY, limits).unwrap();
    server.probe().unwrap();
    assert_eq!(server.model(), Some("tiny-seller"));
    Arc::new(server)
}

/// Games of a patient script against a server: each over a product of its own.
fn play(server: &Arc<Server>, n: usize, max_live: usize) -> haggle::Result<(Vec<Episode>, Stats)> {
    let products = catalog::embedded().unwrap();
    let game = |i: usize| Episode::new(Arc::new(products[i * 7].clone()), Rules::default(), Persona::Neutral);
    let mut games: Vec<Episode> = (0..n).map(game).collect();
    let jobs = games.iter_mut().enumerate().map(|(i, game)| Job::new(game, "books", Noise::new(1, i as u64))).collect();
    let buyer = |game: &Episode, noise: Noise| Buyer::Naive.reply(game, noise);
    let voice = RemoteVoice { desk: Desk::new(server, max_live), temperature: 0.5, max_tokens: 64 };
    let played = rollout::play(jobs, &mut [Player::Script(&buyer), Player::Remote(voice)], max_live, &mut |_| ())?;
    Ok((games, played.remote.unwrap()))
}

/// The replies of the seller that were played.
fn replies(game: &Episode) -> Vec<&str> {
    game.dialogue(Side::Seller).into_iter().map(|(_, said)| said).collect()
}

#[test]
fn a_server_plays_a_seat_and_is_told_what_the_seat_saw() {
    let server = ChatServer::new(stubborn);
    let (games, stats) = play(&open(&server, quick()), 12, 12).unwrap();
    for game in &games {
        assert!(game.void().is_none() && game.outcome().is_some(), "{game:?}");
        assert!(replies(game)[0].contains("[REJECT]"), "{:?}", replies(game));
    }
    assert!(games.iter().any(|game| game.outcome() == Some(Outcome::Quit { by: Side::Seller })));
    let turns = server.turns();
    let spoken: usize = games.iter().map(|game| replies(game).len()).sum();
    assert_eq!((turns.len(), stats.requests, stats.failures, stats.lost), (spoken, spoken as u64, 0, 0));
    assert_eq!(stats.tokens, 9 * spoken as u64);
    assert!(server.most.load(Ordering::SeqCst) <= 4, "seller.concurrency");
    let mut seeds: Vec<u64> = Vec::new();
    for asked in &turns {
        let (body, messages) = (&asked.body, asked.body["messages"].as_array().unwrap());
        assert_eq!(
            (&body["model"], &body["max_tokens"], &body["temperature"]),
            (&"tiny-seller".into(), &64.into(), &0.5.into())
        );
        seeds.push(body["seed"].as_u64().unwrap());
        let game = games.iter().find(|game| game.system_prompt(Side::Seller) == asked.system()).unwrap();
        let mut told = vec![("system", asked.system())];
        for (heard, said) in game.dialogue(Side::Seller) {
            told.extend([("user", heard), ("assistant", said)]);
        }
        let got: Vec<(&str, &str)> =
            messages.iter().map(|m| (m["role"].as_str().unwrap(), m["content"].as_str().unwrap())).collect();
        assert_eq!(got, told[..got.len()]);
        assert_eq!(got.last().unwrap().0, "user");
    }
    seeds.sort();
    seeds.dedup();
    assert_eq!(seeds.len(), turns.len(), "a seed for each turn");
    assert!(seeds.iter().all(|seed| *seed < 1 << 31));
}

#[test]
fn what_a_server_says_does_not_depend_on_who_is_answered_first() {
    let slow = |asked: &Asked| {
        std::thread::sleep(Duration::from_millis(asked.body["seed"].as_u64().unwrap() % 30));
        says(&format!("Thought: {}\nTalk: No.\nAction: [REJECT]", asked.body["seed"]))
    };
    let all = |max_live| {
        let server = ChatServer::new(slow);
        let (games, _) = play(&open(&server, quick()), 6, max_live).unwrap();
        games.iter().map(|game| format!("{:?}", game.turns())).collect::<Vec<_>>()
    };
    assert_eq!(all(1), all(6));
}

#[test]
fn a_broken_answer_is_asked_for_again() {
    for (i, (name, bad)) in broken().into_iter().enumerate() {
        let server = ChatServer::new(move |asked| match asked.before {
            // The first of the models, the probe, then a turn.
            1 => bad(),
            _ => stubborn(asked),
        });
        let (games, stats) = play(&open(&server, quick()), 1, 1).unwrap();
        assert!(games[0].void().is_none() && games[0].outcome().is_some(), "{i} {name}: {:?}", games[0].void());
        assert_eq!((stats.failures, stats.lost), (1, 0), "{i} {name}");
    }
}

#[test]
fn what_stays_broken_makes_its_episode_void_and_no_other() {
    let product = Arc::new(catalog::embedded().unwrap()[7].clone());
    let unlucky = Episode::new(product, Rules::default(), Persona::Neutral).system_prompt(Side::Seller);
    for (i, (name, bad)) in broken().into_iter().enumerate() {
        let unlucky = unlucky.clone();
        let server = ChatServer::new(move |asked| match asked.system() == unlucky {
            true => bad(),
            false => stubborn(asked),
        });
        let (games, stats) = play(&open(&server, quick()), 3, 3).unwrap();
        let why = games[1].void().unwrap_or_else(|| panic!("{i} {name}: {:?}", games[1].outcome()));
        assert!(why.contains(name) && why.ends_with("(try 3)") && !why.contains('\n'), "{i} {name}: {why}");
        assert!(games[1].outcome().is_none() && rollout::Episode::reward(&games[1], 0).is_none());
        assert!(games[0].outcome().is_some() && games[2].outcome().is_some(), "{i} {name}");
        assert_eq!((stats.failures, stats.lost), (3, 1), "{i} {name}");
    }
}

#[test]
fn retry_after_is_waited_for_and_a_refusal_is_not_tried_again() {
    let server = ChatServer::new(|asked| match asked.before {
        1 => Answer::Json(429, vec![("Retry-After", "0.5".into())], serde_json::Value::Null),
        _ => stubborn(asked),
    });
    let remote = open(&server, quick());
    let start = Instant::now();
    let (games, _) = play(&remote, 1, 1).unwrap();
    assert!(games[0].outcome().is_some() && start.elapsed() >= Duration::from_millis(500));
    let server = ChatServer::new(|asked| if asked.before > 0 { fails(400, "context too long") } else { says("yes") });
    let (games, stats) = play(&open(&server, quick()), 1, 1).unwrap();
    assert_eq!(games[0].void(), Some("HTTP 400 (context too long) (try 1)"));
    assert_eq!(stats.requests, 1);
}

#[test]
fn a_probe_refuses_what_would_fail_every_episode() {
    for (status, says) in
        [(401, "HTTP 401 (no such key); HAGGLE_TEST_NO_SUCH_KEY holds no key"), (400, "HTTP 400"), (404, "/v1")]
    {
        let server = ChatServer::new(move |_| fails(status, "no such key"));
        let remote = Server::new(&server.url, Some("other".into()), NO_KEY, quick()).unwrap();
        let refused = remote.probe().unwrap_err();
        assert!(matches!(refused, Error::Config { .. }) && refused.exit_code() == 2, "{refused}");
        let line = refused.to_string();
        assert!(line.contains(says) && line.lines().count() == 1 && line.contains(&server.url), "{line}");
        assert_eq!(server.asked.lock().unwrap().len(), 1, "a refusal is not tried again");
        assert_eq!(server.asked.lock().unwrap()[0].body["model"], "other");
    }
    for (name, bad) in broken() {
        let server = ChatServer::new(move |_| bad());
        let lost = Server::new(&server.url, None, NO_KEY, quick()).unwrap().probe().unwrap_err();
        assert!(matches!(lost, Error::Seller { .. }) && lost.exit_code() == 5, "{name}: {lost}");
        assert!(lost.to_string().contains(name) && lost.to_string().lines().count() == 1, "{name}: {lost}");
    }
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let lost = Server::new(&format!("http://{gone}/v1"), None, NO_KEY, quick()).unwrap().probe().unwrap_err();
    assert!(matches!(lost, Error::Seller { .. }), "{lost}");
}

#[test]
fn a_server_that_fails_everything_is_given_up_and_one_that_comes_back_is_not() {
    let dies = |back: usize| {
        let server = ChatServer::new(move |asked| match asked.before {
            0..6 => stubborn(asked),
            n if n < back => fails(500, "boom"),
            _ => stubborn(asked),
        });
        let limits = Limits { failures: 3, retries: 6, ..quick() };
        let asked = server.asked.clone();
        (play(&open(&server, limits), 8, 8), asked.lock().unwrap().len(), server)
    };
    let (lost, asked, _server) = dies(usize::MAX);
    let lost = lost.unwrap_err();
    assert!(matches!(lost, Error::Seller { .. }) && lost.to_string().contains("HTTP 500 (boom)"), "{lost}");
    assert!(asked < 40, "{asked} requests: behind a cooling one goes first");
    let (games, ..) = dies(12);
    let (games, stats) = games.unwrap();
    assert!(games.iter().all(|game| game.outcome().is_some()), "nothing is lost");
    assert!(stats.failures > 0 && stats.lost == 0, "{stats:?}");
}

#[test]
fn a_reply_that_is_longer_than_its_limit_is_played_as_one_that_was_cut() {
    let long = format!("Thought: a\nTalk: {}\nAction: [REJECT]", "x".repeat(64 * 32));
    let server = ChatServer::new(move |asked| if asked.probes() { says("yes") } else { says(&long) });
    let (games, _) = play(&open(&server, quick()), 1, 1).unwrap();
    let turn = games[0].turns_of(Side::Seller).next().unwrap();
    assert!(turn.intervention.is_some() && turn.talk.len() < 100, "{turn:?}");
}

#[test]
fn a_desk_that_is_left_does_not_wait_for_its_server() {
    let server =
        ChatServer::new(|asked| if asked.probes() { says("yes") } else { Answer::Stall(Duration::from_secs(3)) });
    let remote = open(&server, Limits { read: Duration::from_secs(60), ..quick() });
    let start = Instant::now();
    let mut desk = Desk::new(&remote, 9);
    let messages = vec![Message::new(Role::System, "a"), Message::new(Role::User, "b")];
    desk.ask(3, Ask { messages, temperature: 0.0, max_tokens: 8, noise: Noise::new(1, 2) });
    assert_eq!(desk.next(Duration::from_millis(20)).unwrap(), None);
    assert_eq!(desk.pending(), 1);
    drop(desk);
    assert!(start.elapsed() < Duration::from_secs(2));
    let mut none = Desk::new(&remote, 9);
    assert_eq!(none.next(Duration::from_secs(60)).unwrap(), None::<(usize, Heard)>, "nothing was asked");
}
