"""Words of the generated world: domains with their vocabularies, cities, moods."""

from __future__ import annotations


# top domain: (general words, {leaf domain: its own words})
DOMAINS: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "Film": (
        ["director", "screen", "scene", "cast", "cinema", "premiere"],
        {
            "Crime": ["detective", "heist", "alibi", "mobster", "verdict", "witness", "suspect", "precinct"],
            "Comedy": ["prank", "banter", "slapstick", "parody", "blunder", "gag", "mischief", "farce"],
            "Science Fiction": ["starship", "android", "orbit", "wormhole", "colony", "alien", "timeline", "reactor"],
            "Documentary": [
                "archive",
                "interview",
                "testimony",
                "expedition",
                "footage",
                "chronicle",
                "survey",
                "reportage",
            ],
        },
    ),
    "Music": (
        ["album", "melody", "concert", "singer", "studio", "chorus"],
        {
            "Jazz": ["saxophone", "swing", "quartet", "improvisation", "trumpet", "bebop", "standard", "brushwork"],
            "Metal": ["riff", "distortion", "growl", "amplifier", "headbang", "drumkit", "thrash", "anvil"],
            "Folk": ["banjo", "ballad", "fiddle", "harvest", "shanty", "mandolin", "campfire", "hearth"],
            "Electronic": ["synthesizer", "sequencer", "bassline", "sampler", "techno", "loop", "club", "vocoder"],
        },
    ),
    "Sport": (
        ["match", "season", "league", "trainer", "medal", "stadium"],
        {
            "Football": ["striker", "goalkeeper", "penalty", "offside", "midfield", "dribble", "corner", "derby"],
            "Cycling": ["peloton", "derailleur", "sprint", "climb", "saddle", "velodrome", "crank", "descent"],
            "Running": ["marathon", "interval", "cadence", "trail", "pacer", "sneaker", "jog", "finish"],
            "Climbing": ["boulder", "belay", "carabiner", "crux", "harness", "summit", "ledge", "chalk"],
        },
    ),
    "Food": (
        ["recipe", "kitchen", "flavour", "plate", "chef", "menu"],
        {
            "Baking": ["sourdough", "croissant", "yeast", "pastry", "oven", "flour", "brioche", "glaze"],
            "Barbecue": ["brisket", "charcoal", "smoker", "marinade", "ribs", "skewer", "ember", "rub"],
            "Vegan": ["lentil", "tofu", "chickpea", "kale", "quinoa", "tempeh", "avocado", "cashew"],
            "Wine": ["vineyard", "tannin", "barrel", "sommelier", "vintage", "cork", "cellar", "grape"],
        },
    ),
    "Travel": (
        ["journey", "ticket", "guide", "map", "luggage", "view"],
        {
            "Beaches": ["lagoon", "snorkel", "coral", "hammock", "surf", "palm", "tide", "sandbar"],
            "Mountains": ["glacier", "ridge", "alpine", "hut", "valley", "cable", "meadow", "peak"],
            "Cities": ["skyline", "metro", "gallery", "boulevard", "rooftop", "market", "tram", "plaza"],
            "Railways": [
                "locomotive",
                "sleeper",
                "platform",
                "viaduct",
                "timetable",
                "carriage",
                "junction",
                "whistle",
            ],
        },
    ),
    "Technology": (
        ["device", "update", "engineer", "release", "design", "tool"],
        {
            "Programming": ["compiler", "function", "debugger", "syntax", "refactor", "thread", "library", "commit"],
            "Photography": ["aperture", "tripod", "lens", "exposure", "shutter", "portrait", "darkroom", "focus"],
            "Robotics": ["actuator", "gripper", "servo", "sensor", "drone", "kinematics", "gearbox", "controller"],
            "Astronomy": ["telescope", "nebula", "eclipse", "galaxy", "meteor", "observatory", "comet", "spectrum"],
        },
    ),
}

ADJECTIVES = [
    *(
        "Silent",
        "Golden",
        "Hidden",
        "Restless",
        "Crimson",
        "Distant",
        "Gentle",
        "Broken",
        "Early",
        "Northern",
        "Velvet",
    ),
    *("Wandering", "Electric", "Patient", "Hollow", "Burning", "Lucky", "Frozen", "Honest", "Midnight", "Curious"),
    *("Bright", "Forgotten", "Steady", "Wild"),
]

# city: ((latitude, longitude), country)
CITIES: dict[str, tuple[tuple[float, float], str]] = {
    "Lisbon": ((38.7223, -9.1393), "Portugal"),
    "Vienna": ((48.2082, 16.3738), "Austria"),
    "Oslo": ((59.9139, 10.7522), "Norway"),
    "Athens": ((37.9838, 23.7275), "Greece"),
}

POSITIVE = ["loved the", "could not put down the", "a delightful", "wonderful", "perfect", "brilliant", "more of this"]
NEGATIVE = ["tired of the", "disappointed by the", "a dull", "too much", "boring", "forgettable", "skip the"]
