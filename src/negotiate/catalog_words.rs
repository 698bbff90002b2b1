//! Words of the generated catalog: per category its share, price quartiles, nouns and features.
//!
//! The one idea: a table, and nothing but a table. Shares and price quartiles follow the published data set's statistics.

/// One category of the catalog.
pub struct Category {
    /// As in the data set.
    pub name: &'static str,
    /// Records in a catalog of 930.
    pub share: usize,
    /// List price in dollars: minimum, quartiles, maximum.
    pub dollars: [f64; 5],
    /// What the products are.
    pub nouns: [&'static str; 8],
    /// What is said of them.
    pub traits: [&'static str; 6],
}

const fn category(
    name: &'static str,
    share: usize,
    dollars: [f64; 5],
    nouns: [&'static str; 8],
    traits: [&'static str; 6],
) -> Category {
    Category { name, share, dollars, nouns, traits }
}

/// The data set's 18 categories.
#[rustfmt::skip]
pub const CATEGORIES: [Category; 18] = [
    category("automotive", 7, [12.0, 14.0, 44.0, 620.0, 1192.0],
        ["Car Battery Charger", "Tire Inflator", "Dash Cover", "Roof Rack", "Jump Starter", "Floor Mats", "Tow Strap", "LED Headlight Kit"],
        ["fits most cars", "overcharge protection", "heavy duty steel", "easy to install", "works in cold weather", "12 volt plug"]),
    category("baby-products", 11, [90.0, 255.0, 350.0, 400.0, 720.0],
        ["Convertible Car Seat", "Folding Stroller", "Wooden Crib", "High Chair", "Baby Monitor", "Travel Bassinet", "Diaper Bag", "Baby Swing"],
        ["washable cover", "folds with one hand", "five point harness", "grows with your child", "soft padding", "meets safety standards"]),
    category("beauty", 12, [56.0, 77.0, 100.0, 420.0, 600.0],
        ["Hair Dryer", "Facial Steamer", "Electric Shaver", "Curling Iron", "Makeup Mirror", "Perfume Set", "Skin Care Kit", "Hair Straightener"],
        ["gentle on skin", "fast heat up", "travel case included", "for all hair types", "three speeds", "fresh scent"]),
    category("books", 13, [10.0, 19.0, 30.0, 50.0, 245.0],
        ["Atlas of the Night Sky", "The Salt Road", "Bread at Home", "A History of Bridges", "The Glass Orchard", "Field Guide to Birds", "The Quiet Harbor", "Learn to Draw"],
        ["hardcover", "boxed set", "illustrated", "first edition", "with maps", "large print"]),
    category("electronics", 284, [19.0, 187.0, 350.0, 580.0, 4299.98],
        ["Wireless Headphones", "Laptop Computer", "4K Monitor", "Mirrorless Camera", "Bluetooth Speaker", "Solid State Drive", "Smart Watch", "Mesh Router"],
        ["long battery life", "noise cancelling", "fast charging", "bright display", "water resistant", "one year warranty"]),
    category("health-personal-care", 2, [18.0, 19.0, 32.0, 46.0, 60.0],
        ["Electric Toothbrush", "Blood Pressure Monitor", "Massage Gun", "Heating Pad", "Bathroom Scale", "Sleep Mask", "Water Flosser", "Vitamin Pack"],
        ["easy to read", "quiet motor", "rechargeable", "doctor recommended", "auto shut off", "soft fabric"]),
    category("home-kitchen", 23, [10.0, 60.0, 150.0, 295.0, 790.0],
        ["Stand Mixer", "Cast Iron Skillet", "Robot Vacuum", "Espresso Machine", "Air Fryer", "Knife Set", "Memory Foam Pillow", "Table Lamp"],
        ["dishwasher safe", "stainless steel", "quiet", "compact", "easy to clean", "recipe book included"]),
    category("industrial-scientific", 2, [90.0, 150.0, 249.0, 320.0, 520.0],
        ["3D Printer", "Digital Microscope", "Label Maker", "Digital Caliper", "Lab Scale", "Soldering Station", "Thermal Camera", "Air Quality Meter"],
        ["high precision", "calibrated", "metal frame", "auto leveling", "data export", "safety certified"]),
    category("movies-tv", 75, [15.0, 34.0, 40.0, 46.0, 188.0],
        ["The Last Lighthouse", "Winter Station", "Cold River", "The Long Weekend", "Star Harbor", "City of Rain", "Paper Moons", "The Silver Coast"],
        ["4K Ultra HD", "Blu-ray", "complete series", "director's cut", "with bonus features", "collector's edition"]),
    category("music", 5, [14.0, 90.0, 157.0, 260.0, 300.0],
        ["Acoustic Guitar", "Digital Piano", "Vinyl Record Box", "Ukulele", "Drum Pad", "Violin Outfit", "Condenser Microphone", "Guitar Pedal"],
        ["warm sound", "for beginners", "solid top", "carry bag included", "weighted keys", "studio quality"]),
    category("other", 288, [12.0, 70.0, 200.0, 400.0, 1700.0],
        ["Standing Desk", "Air Purifier", "Rolling Suitcase", "Office Chair", "Projector Screen", "Winter Jacket", "Photo Printer", "Weather Station"],
        ["adjustable", "solid build", "light weight", "new model", "two year warranty", "easy set up"]),
    category("patio-lawn-garden", 10, [8.0, 190.0, 900.0, 1649.0, 3480.0],
        ["Pellet Grill", "Robot Lawn Mower", "Patio Heater", "Garden Hose", "Fire Pit", "Pressure Washer", "Leaf Blower", "Raised Garden Bed"],
        ["weather proof", "powder coated", "large capacity", "cordless", "quick start", "low maintenance"]),
    category("pet-supplies", 5, [18.0, 22.0, 28.0, 40.0, 52.0],
        ["Dog Bed", "Cat Tree", "Pet Fountain", "Dog Leash", "Litter Box", "Pet Carrier", "Chew Toy Pack", "Grooming Brush"],
        ["machine washable", "for large dogs", "non slip base", "extra soft", "odor control", "easy to carry"]),
    category("software", 4, [60.0, 80.0, 92.0, 100.0, 180.0],
        ["Photo Editor", "Tax Filing Suite", "Antivirus Plan", "Office Suite", "Language Course", "Video Editor", "Genealogy Kit", "Backup Plan"],
        ["one year license", "for five devices", "digital download", "free updates", "works offline", "step by step help"]),
    category("sports-outdoors", 16, [25.0, 55.0, 95.0, 269.0, 2800.0],
        ["Camping Tent", "Exercise Bike", "Hiking Boots", "Kayak Paddle", "Yoga Mat", "Adjustable Dumbbells", "Sleeping Bag", "Bike Helmet"],
        ["water proof", "ultra light", "non slip", "four season", "quick release", "reflective"]),
    category("tools-home-improvement", 144, [15.0, 52.0, 99.0, 239.0, 883.0],
        ["Cordless Drill", "Circular Saw", "Socket Set", "Tool Chest", "Laser Level", "Shop Vacuum", "Ceiling Fan", "Door Lock"],
        ["brushless motor", "two batteries included", "chrome finish", "lifetime warranty", "carry case", "variable speed"]),
    category("toys-games", 22, [5.0, 20.0, 42.0, 70.0, 1081.0],
        ["Building Set", "Board Game", "Remote Control Car", "Plush Bear", "Puzzle Cube", "Train Set", "Science Kit", "Doll House"],
        ["for ages six and up", "two to six players", "500 pieces", "batteries included", "award winner", "wooden parts"]),
    category("video-games", 7, [45.0, 50.0, 70.0, 200.0, 560.0],
        ["Racing Wheel", "Game Console", "Wireless Controller", "Gaming Headset", "Galaxy Raiders", "Kingdom of Frost", "Arcade Stick", "Rally Masters"],
        ["for console and PC", "special edition", "low latency", "force feedback", "online play", "soundtrack included"]),
];

/// Invented makers.
pub const BRANDS: [&str; 24] = [
    "Alder",
    "Brightway",
    "Calder",
    "Dunmore",
    "Eastvale",
    "Fennwick",
    "Graylark",
    "Harrow",
    "Ironleaf",
    "Juniper",
    "Kestrel",
    "Larkhill",
    "Marlow",
    "Northgate",
    "Oakline",
    "Pinecrest",
    "Quillon",
    "Redfern",
    "Summit",
    "Tamarack",
    "Umber",
    "Vantry",
    "Westbrook",
    "Yarrow",
];

/// Colours and finishes behind the comma of a title.
pub const FINISHES: [&str; 10] =
    ["Black", "White", "Silver", "Navy Blue", "Forest Green", "Graphite", "Natural", "Red", "Sand", "Slate Gray"];
