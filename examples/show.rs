use haggle::negotiate::Side;
use haggle::text::{Chat, Tokenizer};
use haggle::train::dialogues::*;
fn main() {
    let t0 = std::time::Instant::now();
    let c = corpus(1, 4000).unwrap();
    println!("corpus {} texts {} MB {:?}", c.len(), c.iter().map(|s| s.len()).sum::<usize>() / 1000000, t0.elapsed());
    let chat = Chat::ours(Tokenizer::train(&c, 2048).unwrap()).unwrap();
    println!("trained {:?}", t0.elapsed());
    let d = Dialogues::new(1).unwrap();
    let t0 = std::time::Instant::now();
    let (mut n, mut tok, mut own, mut rep, mut max) = ([0usize; 2], [0usize; 2], [0usize; 2], [0usize; 2], 0);
    let mut deals = 0;
    let mut ci = 0;
    let mut outc = std::collections::BTreeMap::new();
    for i in 0..2000u64 {
        for s in d.sequences(&chat, i).unwrap() {
            let k = (s.side == Side::Seller) as usize;
            n[k] += 1;
            tok[k] += s.ids.len();
            own[k] += s.own.iter().filter(|x| **x).count();
            rep[k] += s.ids.iter().zip(&s.own).filter(|(i, o)| **i == 1 && **o).count();
            max = max.max(s.ids.len());
        }
    }
    println!("{:?} for 2000; n {n:?} tok {tok:?} own {own:?} replies {rep:?} max {max}", t0.elapsed());
    for i in 0..2000u64 {
        let (b, e) = d.episode(i);
        *outc
            .entry(format!(
                "{b:?} {}",
                format!("{:?}", e.outcome()).split(&['{', ' ', '('][..]).take(2).collect::<Vec<_>>().join(" ")
            ))
            .or_insert(0) += 1;
        if e.product().cost > e.product().budget {
            ci += 1
        }
    }
    println!("ci {ci} {outc:#?}");
    let _ = deals;
    deals = 1;
    let _ = deals;
    for i in 0..6u64 {
        for s in d.sequences(&chat, i).unwrap() {
            println!(
                "---- {i} {:?} {} tokens\n{}",
                s.side,
                s.ids.len(),
                s.ids
                    .iter()
                    .zip(&s.own)
                    .map(|(i, o)| {
                        let t = chat.tokenizer.decode(&[*i]).unwrap();
                        if *o { format!("·{t}") } else { format!("|{t}") }
                    })
                    .collect::<String>()
            );
        }
    }
}
