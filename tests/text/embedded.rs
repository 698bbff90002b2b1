//! The folder inside the binary: whole, small, and it knows its part.

use haggle::device::Device;
use haggle::embedded;
use haggle::sft::probe::probe;
use haggle::sft::trainer::{Supervision, Trainer};

#[test]
fn the_embedded_folder_loads_and_fits_itself() {
    let dev = Device::open("cpu", 1).unwrap();
    let (weights, chat) = (embedded::weights(&dev).unwrap(), embedded::chat().unwrap());
    assert_eq!((chat.tokenizer.vocab(), weights.config.vocab_size), (2_048, 2_048));
    assert_eq!(weights.config.eos_token_ids, [chat.end() as u32]);
    let bytes = std::fs::metadata("assets/tiny/model.safetensors").unwrap().len();
    assert!(bytes < 10_000_000, "{bytes} bytes");
    let record: serde_json::Value = serde_json::from_str(embedded::record()).unwrap();
    assert!(record["command"].as_str().unwrap().starts_with("haggle init --preset tiny --supervised"));
}

#[test]
fn the_embedded_model_spells_prices_and_keeps_the_form() {
    let dev = Device::open("cpu", 2).unwrap();
    let chat = embedded::chat().unwrap();
    let how = Supervision { micro_tokens: 2_304, ..Supervision::default() };
    let mut trainer = Trainer::new(&dev, embedded::weights(&dev).unwrap().config, how).unwrap();
    trainer.weights = embedded::weights(&dev).unwrap();
    let found = probe(&mut trainer, &chat, 7, 32).unwrap();
    for (name, probability) in
        [("bid", found.bid_price), ("ask", found.ask_price), ("deal", found.deal_price), ("form", found.form)]
    {
        assert!(probability > 0.99, "{name}: {found:?}");
    }
}
