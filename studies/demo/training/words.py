"""The words that the demo's parents were taught: name in captions -> code point of the emoji.

The names are those that people use ("lion", not Unicode's "lion face"). The code point is the name of the 64-pixel Noto
picture in the npm package `emoji-datasource-google`.
"""

from __future__ import annotations

ANIMALS: dict[str, str] = {
    "rat": "1f400", "ox": "1f402", "cow": "1f404", "tiger": "1f405",
    "leopard": "1f406", "rabbit": "1f407", "cat": "1f408", "crocodile": "1f40a",
    "whale": "1f40b", "snail": "1f40c", "snake": "1f40d", "horse": "1f40e",
    "goat": "1f410", "sheep": "1f411", "monkey": "1f412", "rooster": "1f413",
    "chicken": "1f414", "dog": "1f415", "pig": "1f416", "boar": "1f417",
    "elephant": "1f418", "octopus": "1f419", "ant": "1f41c", "bee": "1f41d",
    "ladybug": "1f41e", "fish": "1f41f", "turtle": "1f422", "chick": "1f425",
    "penguin": "1f427", "koala": "1f428", "poodle": "1f429", "camel": "1f42b",
    "dolphin": "1f42c", "frog": "1f438", "hamster": "1f439", "wolf": "1f43a",
    "bear": "1f43b", "panda": "1f43c", "spider": "1f577-fe0f", "crab": "1f980",
    "lion": "1f981", "scorpion": "1f982", "turkey": "1f983", "unicorn": "1f984",
    "eagle": "1f985", "duck": "1f986", "bat": "1f987", "shark": "1f988",
    "owl": "1f989", "fox": "1f98a", "butterfly": "1f98b", "deer": "1f98c",
    "gorilla": "1f98d", "lizard": "1f98e", "rhinoceros": "1f98f", "squid": "1f991",
    "giraffe": "1f992", "zebra": "1f993", "hedgehog": "1f994", "kangaroo": "1f998",
    "llama": "1f999", "peacock": "1f99a", "parrot": "1f99c", "raccoon": "1f99d",
    "lobster": "1f99e", "swan": "1f9a2", "flamingo": "1f9a9", "beaver": "1f9ab",
    "seal": "1f9ad", "jellyfish": "1fabc",
}  # fmt: skip

FOODS: dict[str, str] = {
    "hot dog": "1f32d", "taco": "1f32e", "burrito": "1f32f", "chestnut": "1f330",
    "chili pepper": "1f336-fe0f", "corn": "1f33d", "mushroom": "1f344", "tomato": "1f345",
    "eggplant": "1f346", "grapes": "1f347", "melon": "1f348", "watermelon": "1f349",
    "tangerine": "1f34a", "lemon": "1f34b", "banana": "1f34c", "pineapple": "1f34d",
    "apple": "1f34e", "pear": "1f350", "peach": "1f351", "cherries": "1f352",
    "strawberry": "1f353", "hamburger": "1f354", "pizza": "1f355", "drumstick": "1f357",
    "rice ball": "1f359", "curry": "1f35b", "ramen": "1f35c", "spaghetti": "1f35d",
    "bread": "1f35e", "french fries": "1f35f", "dango": "1f361", "sushi": "1f363",
    "ice cream": "1f366", "shaved ice": "1f367", "doughnut": "1f369", "cookie": "1f36a",
    "chocolate": "1f36b", "candy": "1f36c", "lollipop": "1f36d", "custard": "1f36e",
    "honey": "1f36f", "cake": "1f370", "wine": "1f377", "cocktail": "1f378",
    "beer": "1f37a", "champagne": "1f37e", "popcorn": "1f37f", "birthday cake": "1f382",
    "croissant": "1f950", "avocado": "1f951", "cucumber": "1f952", "bacon": "1f953",
    "potato": "1f954", "carrot": "1f955", "baguette": "1f956", "salad": "1f957",
    "milk": "1f95b", "peanuts": "1f95c", "kiwi": "1f95d", "pancakes": "1f95e",
    "coconut": "1f965", "broccoli": "1f966", "pie": "1f967", "pretzel": "1f968",
    "sandwich": "1f96a", "cheese": "1f9c0", "cupcake": "1f9c1", "garlic": "1f9c4",
    "waffle": "1f9c7", "blueberries": "1fad0",
}  # fmt: skip


def caption(name: str) -> str:
    """Return the caption with which every model of the demo was trained."""
    return f"an emoji of a {name}"
